"""Prompts: from a command, from files, and to each image its seed."""

import pytest

from ldm.data.decode import decode_text
from ldm.files.text import clean_prompts, lines
from ldm.generation.mode.interpolate import Interpolate
from ldm.generation.prompts import Prompt, read_prompts
from ldm.generation.request import numbered


def written(folder, data, name="p.txt"):
    file = folder / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(file)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_line_ends_end_lines(tmp_path, inside):
    text = f"a red{inside}heart\r\na cat\ra dog\n\n a fox "
    assert lines(text) == [f"a red{inside}heart", "a cat", "a dog", "", " a fox "]
    found = read_prompts(None, written(tmp_path, text))
    assert [prompt.text for prompt in found] == [f"a red{inside}heart", "a cat", "a dog", "a fox"]
    assert [request.seed for request in numbered(found, 1, 7)] == [7, 8, 9, 10]


@pytest.mark.parametrize("text", [" a red  heart\t", "a red  heart\x0c", "\u3000a red  heart\n", "a red\0  heart"])
def test_a_prompt_is_the_same_wherever_it_comes_from_and_cleaned_as_captions_are(tmp_path, text):
    wanted = [decode_text(text.encode())]
    assert wanted == ["a red  heart"]
    assert [prompt.text for prompt in read_prompts(text, None)] == wanted
    if "\0" not in text:
        assert [prompt.text for prompt in read_prompts(None, written(tmp_path, text))] == wanted
    assert clean_prompts(text) == clean_prompts([text]) == wanted


def test_json_lines_give_prompts_and_seeds(tmp_path):
    recorded = '{"prompt": "b", "file": "x.png", "mode": "img2img"}'
    rows = ['{"prompt": " a\u2028heart ", "seed": 5, "negative": "cat"}', "", recorded]
    found = read_prompts(None, written(tmp_path, "\n".join(rows), "p.jsonl"))
    assert found == [Prompt("a\u2028heart", 5, "cat"), Prompt("b")]
    made = [(request.prompt, request.seed, request.negative) for request in numbered(found, 2, 100)]
    assert made == [("a\u2028heart", 5, "cat"), ("a\u2028heart", 6, "cat"), ("b", 102, None), ("b", 103, None)]
    way = Interpolate(found[:1], to_prompt="c").requests(2, 100)
    assert [(request.seed, request.to_seed) for request in way] == [(5, 5), (5, 5)]


def test_a_negative_prompt_is_that_of_all_prompts_without_one_of_their_own(tmp_path):
    rows = ['{"prompt": "a", "negative": "cat"}', '{"prompt": "b", "negative": ""}', '{"prompt": "c"}']
    found = read_prompts(None, written(tmp_path, "\n".join(rows), "p.jsonl"), " a dog\n")
    assert [prompt.negative for prompt in found] == ["cat", "", "a dog"]
    assert read_prompts("a", None, "") == [Prompt("a")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", '{"seed": 1}', r"line 1 of .* is not an object with a text \"prompt\""),
        (
            "p.jsonl",
            '{"promt": "a"}',
            "line 1 of .* has the unknown key 'promt'; did you mean prompt[?] choose from prompt, ",
        ),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "seeds": 5}', "line 2 of .* key 'seeds'; did you mean seed[?]"),
        ("p.jsonl", '{"prompt": "a", "negativ": "x"}', "unknown key 'negativ'; did you mean negative[?]"),
        ("p.jsonl", '{"prompt": "a", "xyz": 1}', "unknown key 'xyz'; choose from prompt, seed, negative, label"),
        ("p.jsonl", '{"prompt": "a"}\n\na heart', "line 3 of .* is not an object"),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', r"line 1 of .*: \"seed\"=1.5 cannot be; give a whole number"),
        ("p.jsonl", '{"prompt": "a", "seed": true}', r"\"seed\"=true cannot be"),
        ("p.jsonl", '{"prompt": "a", "negative": 3}', r"\"negative\" is a text; got 3"),
        ("p.txt", '{"prompt": "a", "seed": 5}', r"holds JSON; rename it to p.jsonl"),
        ("p.csv", "prompt\na", "files of this kind are not read; write one prompt a line"),
        ("p.parquet", "PAR1", "files of this kind are not read"),
        ("p.txt", b"\x89PNG\r\n\x1a\n\0\0", "is not a text file; write one prompt a line"),
        ("p", "a heart\n".encode("utf-16-le"), "is not a text file"),
        ("p.txt", "\n \n", "no prompts in .*; write one prompt a line"),
        ("p.txt", "", "no prompts in"),
    ],
)
def test_files_that_are_no_prompts_are_said_to_be(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(None, written(tmp_path, data, name))


def test_a_folder_and_nothing_are_no_prompts(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a file"):
        read_prompts(None, str(tmp_path))
    with pytest.raises(ValueError, match="there is no file prompts=.*none.txt"):
        read_prompts(None, str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=r'there is no file prompts=a red heart; a single prompt is prompt="..."'):
        read_prompts(None, "a red heart")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_files_of_usual_encodings_are_read(tmp_path, encoding):
    assert read_prompts(None, written(tmp_path, "déjà vu\nOKé".encode(encoding))) == [Prompt("déjà vu"), Prompt("OKé")]


def test_more_images_than_a_folder_takes_are_refused_before_they_are_counted_up():
    assert len(numbered([Prompt("a")] * 3, 2, 0)) == 6
    with pytest.raises(
        ValueError, match="n=1000000000000 asks for 2,000,000,000,000 images, and one folder takes 1,000,000 at"
    ):
        numbered([Prompt("a")] * 2, 10**12, 0)
    with pytest.raises(ValueError, match="asks for 1,000,000,000,000 images"):
        Interpolate([Prompt("a")], to_seed=1).requests(10**12, 0)


def test_no_seed_goes_beyond_the_last():
    with pytest.raises(ValueError, match=r"the seed of 00001.png=9223372036854775808 cannot be"):
        numbered([Prompt("a")], 2, 2**63 - 1)
