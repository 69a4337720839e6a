"""Tokenizers from files of several kinds, and the folders in which transformers finds them again."""

import json

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, CLIPTokenizer

from ldm.conditioner.transformer import learn_tokenizer
from ldm.pretrained import tokens
from ldm.pretrained.tokenizer_folder import tokenizer_folder
from ldm.pretrained.tokens import encode_texts, padded_tokenizer
from tests.interop.conditioner.vocabularies import (
    CAPTIONS,
    END,
    PIECES,
    START,
    WORDS,
    bert_files,
    clip_files,
    clip_folder,
    padded,
)

TEXTS = [caption.replace("!", "") for caption in CAPTIONS]
"""Captions without "!", which transformers takes for a special token where it is the one that fills captions up."""


def ids(name, texts, **options):
    tokenizer, pad_id, pad_token = padded_tokenizer(str(name), **options)
    assert tokenizer.id_to_token(pad_id) == pad_token
    return [encoding.ids for encoding in encode_texts(tokenizer, texts)], pad_token


def numbers(*pieces):
    return [PIECES.index(piece) for piece in pieces]


def test_clip_is_read_from_its_files_and_folders(tmp_path):
    files = clip_files(tmp_path / "files")
    expected = [[START, *numbers("a</w>", "red</w>", "cat</w>", "!</w>"), END], [START, END]]
    texts = ["A  red\tCAT!", ""]
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "tokenizer.json").write_text(padded_tokenizer(str(files))[0].to_str())
    places = (files, files / "vocab.json", tmp_path / "json", tmp_path / "json" / "tokenizer.json")
    for place in (*places, clip_folder(tmp_path / "stable-diffusion-1")):
        assert ids(place, texts) == (expected, "<|endoftext|>"), place
    assert ids(clip_folder(tmp_path / "stable-diffusion-2", pad_token="!"), texts) == (expected, "!")
    assert padded_tokenizer(str(files), "!")[1:] == (0, "!")


def test_bert_is_read_from_its_file(tmp_path):
    folder = bert_files(tmp_path)
    expected = [[WORDS.index(word) for word in ("[CLS]", "red", "cat", "##s", "[UNK]", "[SEP]")]]
    for place in (folder, folder / "vocab.txt"):
        assert ids(place, ["RED cats sleep"]) == (expected, "[PAD]")


def test_a_word_that_ends_a_line_elsewhere_is_one_word(tmp_path):
    """BERT's vocabulary has such words."""
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS[:5], "\u2028", "a"]) + "\n")
    assert padded_tokenizer(str(tmp_path))[0].token_to_id("a") == 6


def test_what_is_absent_or_damaged_is_named_with_the_place_of_its_files(tmp_path):
    advice = r"folder called tokenizer beside the weights, or give tokenizer=FOLDER to python -m ldm.interop.load"
    for name in ("openai/clip-vit-large-patch14", str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"no tokenizer '{name}' .*{advice}"):
            padded_tokenizer(name)
    clip_files(tmp_path / "half")
    (tmp_path / "half" / "merges.txt").unlink()
    with pytest.raises(ValueError, match=f"merges.txt is missing or cannot be read; .*{advice}"):
        padded_tokenizer(str(tmp_path / "half"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=f"tokenizer.json is no file of a tokenizer .*{advice}"):
        padded_tokenizer(str(tmp_path))


def test_where_a_tokenizer_is_not_at_hand_the_same_one_of_another_model_is_taken(tmp_path, monkeypatch):
    folder, asked = clip_folder(tmp_path), []

    def load(name, *, local):
        asked.append(name)
        if name != "openai/clip-vit-large-patch14":
            raise OSError("no connection")
        return AutoTokenizer.from_pretrained(folder)

    monkeypatch.setattr(tokens, "load_tokenizer", load)
    assert padded_tokenizer("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "!")[1:] == (0, "!")
    assert asked == ["laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "openai/clip-vit-large-patch14"]
    with pytest.raises(FileNotFoundError):
        padded_tokenizer("somebody/else")


def words():
    made = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1, "cat": 2, "<pad>": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


KINDS = {
    "clip": (lambda folder: padded_tokenizer(str(clip_files(folder)))[0], "<|endoftext|>", "CLIPTokenizer"),
    "open_clip": (lambda folder: padded_tokenizer(str(clip_files(folder)))[0], "!", "CLIPTokenizer"),
    "bert": (lambda folder: padded_tokenizer(str(bert_files(folder)))[0], "[PAD]", "BertTokenizer"),
    "own": (lambda folder: learn_tokenizer(CAPTIONS, 300), "<pad>", "PreTrainedTokenizerFast"),
    "words": (lambda folder: words(), "<pad>", "PreTrainedTokenizerFast"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_folder_of_a_tokenizer_and_gives_the_same_tokens(tmp_path, kind):
    make, pad_token, class_name = KINDS[kind]
    tokenizer = make(tmp_path / "files")
    pad_id = tokenizer.token_to_id(pad_token)
    tokenizer.enable_truncation(77)
    tokenizer.enable_padding(pad_id=pad_id, pad_token=pad_token, length=77)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    folder = tokenizer_folder(tokenizer.to_str(), max_tokens=77)
    assert folder.class_name == class_name
    assert {json.loads(folder.files["tokenizer.json"])[key] for key in ("padding", "truncation")} == {None}
    for name, text in folder.files.items():
        (tmp_path / name).write_text(text)
    for theirs in (AutoTokenizer, getattr(transformers, class_name)):
        found = theirs.from_pretrained(tmp_path)
        assert found(TEXTS, padding="max_length", truncation=True).input_ids == expected
        assert (found.pad_token, found.pad_token_id, found.model_max_length) == (pad_token, pad_id, 77)
        assert len(found("red").input_ids) < 10, "nothing is filled up that is not asked to be"
    again, again_id, again_token = padded_tokenizer(str(tmp_path))
    assert (again_id, again_token) == (pad_id, pad_token)
    again.enable_truncation(77)
    again.enable_padding(pad_id=pad_id, pad_token=pad_token, length=77)
    texts = [*CAPTIONS, "a cat!", "", "<|endoftext|>", "[PAD]"] if kind != "own" else CAPTIONS
    assert [e.ids for e in encode_texts(again, texts)] == [e.ids for e in encode_texts(tokenizer, texts)]


def test_the_files_of_clip_are_those_it_was_read_from(tmp_path):
    source = clip_files(tmp_path)
    tokenizer = padded_tokenizer(str(source))[0]
    tokenizer.enable_padding(pad_id=END, pad_token="<|endoftext|>")
    folder = tokenizer_folder(tokenizer.to_str(), max_tokens=77)
    assert folder.files["merges.txt"] == (source / "merges.txt").read_text()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / "old" / name).write_text(folder.files[name])
    old = CLIPTokenizer.from_pretrained(tmp_path / "old")
    assert old("a red cat").input_ids == tokenizer.encode("a red cat").ids
    assert padded(old("a").input_ids, END, 4) == [START, *numbers("a</w>"), END, END]


def test_a_tokenizer_without_padding_is_refused():
    with pytest.raises(ValueError, match="has no padding token"):
        tokenizer_folder(words().to_str(), max_tokens=5)
