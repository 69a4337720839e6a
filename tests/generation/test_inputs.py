"""Inputs: labels, layouts, maps, pictures and arrays, from options, files and lines of a .jsonl file."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Size
from ldm.conditioner.composite import Composite
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.segmentation import SegmentationConditioner
from ldm.generation.inputs import INPUTS, input_rows, input_size
from ldm.generation.mode.txt2img import Txt2Img
from ldm.generation.pictures import find_images, read_image
from ldm.generation.prompts import Prompt, read_prompts
from ldm.generation.request import (
    SampleRequest,
    check_given,
    check_numbers,
    given_fields,
    idle_prompts,
    numbered,
    with_class_numbers,
)
from tests.conditioner.small import LAYOUT

HEART, CAT = {"label": 3, "box": [0.0, 0.0, 0.5, 0.5]}, {"label": 4, "box": [0.5, 0.5, 1.0, 1.0]}


@pytest.fixture
def label_map(tmp_path):
    """A label map of 6 x 10 pixels, whose rows are numbered from 0 to 5."""
    file = tmp_path / "map.png"
    Image.fromarray(np.arange(6, dtype=np.uint8)[:, None].repeat(10, 1)).save(file)
    return str(file)


def folder(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / name.replace("_", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(tmp_path)


def test_each_input_is_one_for_all_or_one_an_image():
    assert input_rows({"label": 3, "depth": None}) == [{"label": 3}]
    assert input_rows({}) == [{}]
    assert input_rows({"label": [1, 2], "layout": [HEART]}) == [
        {"label": 1, "layout": [HEART]},
        {"label": 2, "layout": [HEART]},
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": " "}, "cannot be; give the number or the name of a class, or a list"),
        ({"label": ["heart", None]}, "cannot be"),
        ({"label": -1}, "label=-1 cannot be"),
        ({"label": []}, "cannot be"),
        ({"label": [1, 2.5]}, "cannot be"),
        ({"layout": [{"label": 3}]}, "is no layout: unreadable boxes.* with corners in fractions"),
        (
            {"layout": [{"name": "heart", "label": 3, "box": [0, 0, 1, 1]}, {"name": 3, "box": [0, 0, 1, 1]}]},
            "unreadable",
        ),
        ({"layout": [{"name": "", "box": [0, 0, 1, 1]}]}, "unreadable boxes"),
        ({"layout": "none.json"}, "layout=none.json cannot be read"),
        ({"layout": 5}, "layout=5 cannot be read"),
        ({"depth": "none.png"}, "depth=none.png: no image at none.png"),
        ({"neighbors": "none.npy"}, "neighbors=none.npy cannot be read"),
    ],
)
def test_what_is_no_input_is_said(values, message):
    with pytest.raises(ValueError, match=message):
        input_rows(values)


def test_numbers_that_the_model_does_not_allow_are_refused_before_any_image_is_made():
    model = Composite({"label": LabelConditioner(5, width=16), "layout": LayoutConditioner(**LAYOUT)}, width=16)
    prompts = [Prompt(inputs={"label": label, "layout": [HEART, CAT]}) for label in (4, 5)]
    first, second = numbered(prompts, 1, 0)
    check_numbers([first], [model])
    with pytest.raises(
        ValueError,
        match="label of the sample '00001.png' has the value 5, .*num_classes=5 values are 0 to 4; give one of these",
    ):
        check_numbers([first, second], [model])
    wrong = replace(first, inputs={"label": 0, "layout": [HEART, {**CAT, "label": 29}]})
    with pytest.raises(
        ValueError,
        match="boxes of the sample '00000.png' has the value 29, .*vocabulary=30 values are -1 to 28; give one of these",
    ):
        check_numbers([wrong], [model])


def test_the_image_to_begin_with_and_the_place_of_a_layout_are_named(tmp_path):
    model = Composite({"label": LabelConditioner(5, width=16), "layout": LayoutConditioner(**LAYOUT)}, width=16)
    begun = numbered([Prompt(inputs={"label": label}) for label in (1, 5)], 1, 0, inits=["a/x.png", "b/x.png"])
    with pytest.raises(ValueError, match="label of the sample '00003.png, made of b/x.png' has the value 5"):
        check_numbers([begun[0], begun[3]], [model])
    wrong = {"name": "cat", "box": [0, 0, 1, 1]}
    rows = f"{json.dumps([HEART])}\n\n{json.dumps([HEART, wrong])}\n"
    place = folder(tmp_path, a_json=[{**CAT, "label": 29}], c_jsonl=rows)
    names = ["-"] * 29
    for value, said in ((place, f"{place}/a.json"), (f"{place}/c.jsonl", f"line 3 of {place}/c.jsonl")):
        requests = numbered([Prompt(inputs=inputs) for inputs in input_rows({"layout": value})], 1, 0)
        assert all(json.loads(json.dumps(one.inputs)) == one.inputs for one in requests), "they go into a record"
        known = LayoutConditioner(**LAYOUT, names=[*names[:-1], "cat"])
        numbers = [with_class_numbers(one, known) for one in requests]
        known.ranges = (replace(known.ranges[0], most=27),)
        with pytest.raises(ValueError, match=f"boxes of the sample '{said}' has the value 2[89]"):
            check_numbers(numbers, [known])


def test_numbers_in_files_are_checked_before_any_image_is_made_too_each_file_once(tmp_path, monkeypatch):
    for name, level in (("right", 4), ("wrong", 5)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
    right, wrong = (str(tmp_path / f"{name}.png") for name in ("right", "wrong"))
    model, read = SegmentationConditioner(5), []
    whole = INPUTS["segmentation"].read
    monkeypatch.setattr(INPUTS["segmentation"], "read", lambda *a, **k: read.append(a[0]) or whole(*a, **k))
    requests = numbered([Prompt(inputs={"segmentation": right})], 3, 0)
    check_numbers(requests, [model])
    assert read == [right]
    with pytest.raises(
        ValueError,
        match=r"segmentation of the sample '.*wrong.png' has the value 5, .*values are 0 to 4; give one of these",
    ):
        check_numbers([replace(requests[0], to_inputs={"segmentation": wrong})], [model])


def test_different_numbers_of_inputs_are_refused(tmp_path, label_map):
    (tmp_path / "other.png").write_bytes((tmp_path / "map.png").read_bytes())
    with pytest.raises(ValueError, match="label gives 3 and segmentation gives 2; give as many of each"):
        input_rows({"label": [1, 2, 3], "segmentation": str(tmp_path)})


def test_layouts_come_from_options_files_and_folders(tmp_path):
    inline, two = input_rows({"layout": [HEART, CAT]}), [{"layout": [HEART]}, {"layout": [CAT]}]
    assert inline == [{"layout": [HEART, CAT]}]
    place = folder(tmp_path, a_json=[HEART], b_json=[CAT], c_jsonl=f"{json.dumps([HEART])}\n\n{json.dumps([CAT])}\n")
    assert input_rows({"layout": place}) == two
    (tmp_path / "sample.json").write_text(json.dumps({"boxes": [HEART], "width": 3}))
    assert input_rows({"layout": str(tmp_path / "sample.json")}) == two[:1], "the file of a training image"
    (tmp_path / "sample.json").unlink()
    assert input_rows({"layout": f"{place}/c.jsonl"}) == two
    boxes = INPUTS["layout"].read([HEART, CAT], Size(8, 8), resized=True)
    assert boxes.tolist() == [[3, 0, 0, 0.5, 0.5], [4, 0.5, 0.5, 1, 1]]
    folder(tmp_path, a_json=[{"label": 1, "box": [0.5, 0, 0.5, 1]}], c_jsonl="[\n", d_jsonl="5\n", e_jsonl='["cat"]\n')
    for bad, message in (
        (place, "a.json is no layout"),
        (f"{place}/c.jsonl", "c.jsonl is no JSON"),
        (f"{place}/d.jsonl", "line 1 of .*d.jsonl is no layout"),
        (f"{place}/e.jsonl", "line 1 of .*e.jsonl is no layout"),
    ):
        with pytest.raises(ValueError, match=message):
            input_rows({"layout": bad})


def test_a_map_gives_its_size_rounded_down_and_is_cut_not_resized(label_map):
    assert input_size({"segmentation": label_map, "label": 3}, 4) == Size(4, 8)
    assert input_size({"label": 3}, 4) is None
    cut = INPUTS["segmentation"].read(label_map, Size(4, 8), resized=False)
    assert cut.tolist() == [[row] * 8 for row in (1, 2, 3, 4)]
    larger = INPUTS["segmentation"].read(label_map, Size(12, 20), resized=True)
    assert larger.tolist() == [[row] * 20 for row in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]


def test_maps_of_different_sizes_are_refused(tmp_path, label_map):
    Image.new("L", (8, 8)).save(tmp_path / "depth.png")
    with pytest.raises(ValueError, match=r"segmentation is of \[6,10\] and depth is of 8; give size"):
        input_size({"segmentation": label_map, "depth": str(tmp_path / "depth.png")}, 2)


def test_a_map_of_colours_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="cannot be read as segmentation"):
        INPUTS["segmentation"].read(str(tmp_path / "m.png"), Size(8, 8), resized=True)


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((2, 3), np.int64), np.full((1, 2), np.nan)])
def test_arrays_that_are_no_embeddings_are_refused(tmp_path, array):
    np.save(tmp_path / "n.npy", array)
    with pytest.raises(ValueError, match=r"finite numbers \(K, D\)"):
        input_rows({"neighbors": str(tmp_path / "n.npy")})


def test_an_array_that_would_run_code_is_never_loaded(tmp_path):
    np.save(tmp_path / "n.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as a .npy file"):
        input_rows({"neighbors": str(tmp_path / "n.npy")})


def test_prompts_are_combined_with_inputs_and_lines_have_their_own(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "label": 7}\n{"label": 8, "seed": 5}\n{"prompt": "b"}')
    found = read_prompts(None, str(file), inputs={"label": [1, 2], "depth": None})
    assert [(one.text, one.seed, one.inputs["label"]) for one in found] == [
        *[("a", None, 7), (None, 5, 8), ("b", None, 1)],
        *[("a", None, 7), (None, 5, 8), ("b", None, 2)],
    ]
    assert read_prompts(None, None, inputs={"label": [1, 2]}) == [
        Prompt(inputs={"label": 1}),
        Prompt(inputs={"label": 2}),
    ]
    file.write_text('{"label": [1, 2]}')
    with pytest.raises(ValueError, match="line 1 of .* names several inputs"):
        read_prompts(None, str(file))
    file.write_text('{"label": "heart"}')
    assert read_prompts(None, str(file)) == [Prompt(inputs={"label": "heart"})]
    file.write_text('{"label": -5}')
    with pytest.raises(ValueError, match="line 1 of .*: label=-5 cannot be"):
        read_prompts(None, str(file))


def test_the_record_of_a_request_gives_the_same_request_again(tmp_path, label_map):
    (first, _) = numbered([Prompt("a", inputs={"label": 3, "segmentation": label_map})], 2, 9)
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(first.record()))
    (again,) = numbered(read_prompts(None, str(file)), 1, 0)
    assert again == first


def test_inputs_become_the_fields_of_a_batch(label_map):
    requests = numbered(
        [Prompt("a", inputs={"label": label, "layout": layout}) for label, layout in ((3, [HEART]), (4, []))], 1, 0
    )
    fields = given_fields(requests, resized=True)
    assert fields["caption"] == ["a", "a"]
    assert fields["label"].tolist() == [3, 4]
    torch.testing.assert_close(fields["boxes"][0], torch.tensor([[3, 0, 0, 0.5, 0.5]]))
    assert fields["boxes"][1, 0, 0] == -1


def test_names_of_classes_become_the_numbers_that_the_conditioner_knows(label_map):
    names = ["heart", "cat", "dog"]
    conditioner = Composite(
        {
            "label": LabelConditioner(3, width=16, names=names),
            "layout": LayoutConditioner(**LAYOUT, names=names[::-1]),
        },
        width=16,
    )
    box = [0.0, 0.0, 0.5, 0.5]
    rows = input_rows(
        {
            "label": ["dog", " cat ", 0],
            "layout": [{"name": "cat", "box": box}, {"label": "dog", "box": box}, {"label": 7, "box": box}],
            "segmentation": label_map,
        }
    )
    found = [with_class_numbers(SampleRequest("0", inputs=row), conditioner).inputs for row in rows]
    assert [row["label"] for row in found] == [2, 1, 0]
    assert found[0]["layout"] == [{"label": number, "box": box} for number in (1, 0, 7)]
    assert found[0]["segmentation"] == label_map
    with pytest.raises(ValueError, match="for 00001.png: this model knows no class 'haert'; did you mean heart"):
        with_class_numbers(SampleRequest("00001.png", inputs={"label": "haert"}), conditioner)
    with pytest.raises(ValueError, match="for 0: this model knows no class 'car'; did you mean cat"):
        with_class_numbers(SampleRequest("0", inputs={"layout": [{"name": "car", "box": box}]}), conditioner)


def test_conditions_too_many_and_missing_ones_are_named():
    check_given(SampleRequest("0", "a", inputs={"label": 3}), ("caption", "label", "geometry"), ())
    check_given(SampleRequest("0", "guided by CLIP alone"), (), ())
    check_given(SampleRequest("0"), ("mask",), {"mask"})
    with pytest.raises(ValueError, match="conditioned on label, and for 0 label is missing; give label=..."):
        check_given(SampleRequest("0"), ("label",), ())
    with pytest.raises(
        ValueError, match="conditioned on label, not prompt, and for 0 label is missing; give label=..."
    ):
        check_given(SampleRequest("0", "a cat"), ("label",), ())
    with pytest.raises(
        ValueError, match="conditioned on layout and prompt, and for 0 prompt is missing; give prompt=..."
    ):
        check_given(SampleRequest("0", inputs={"layout": []}), ("boxes", "caption"), ())
    with pytest.raises(
        ValueError,
        match="conditioned on image and mask, and for 0 image and mask are missing; give mode=inpaint init=FILE mask=FILE$",
    ):
        check_given(SampleRequest("0"), ("image", "mask"), ())
    with pytest.raises(ValueError, match="are missing; give mode=super_resolution low_resolution=FILE prompt=...$"):
        check_given(SampleRequest("0"), ("caption", "low_resolution"), ())
    with pytest.raises(
        ValueError, match="label would change nothing: this model is conditioned on prompt; leave it out"
    ):
        check_given(SampleRequest("0", "a", inputs={"label": 3}), ("caption",), ())
    with pytest.raises(ValueError, match="label would change nothing: this model is unconditional; leave it out"):
        check_given(SampleRequest("0", inputs={"label": 3}), (), ())


def test_images_are_as_large_as_their_maps(label_map):
    class Trained:
        size_multiple = 4
        size = Size(32, 32)

    mapped, labelled = numbered([Prompt(inputs={"segmentation": label_map}), Prompt(inputs={"label": 3})], 1, 0)
    assert Txt2Img([]).size_of(mapped, Trained()) == Size(4, 8)
    assert Txt2Img([]).size_of(labelled, Trained()) == Size(32, 32)
    assert Txt2Img([], size=16).size_of(mapped, Trained()) == Size(16, 16)


def test_folders_give_images_of_every_format_that_is_read_and_name_the_others(tmp_path, caplog):
    picture = Image.new("RGB", (8, 8), "red")
    for name in ("a.png", "b.TIF", "c.gif", "d.bmp", "e.jpg", "f.webp"):
        picture.save(tmp_path / name)
    for name in ("._a.png", "phone.heic", "notes.txt"):
        (tmp_path / name).write_text("")
    with caplog.at_level(logging.WARNING):
        found = find_images(str(tmp_path))
    assert [Path(file).name for file in found] == ["a.png", "b.TIF", "c.gif", "d.bmp", "e.jpg", "f.webp"]
    assert caplog.messages == [f"left out of {tmp_path}, since their formats are not read: phone.heic"]
    for file in found:
        assert read_image(file, 8).amin((1, 2)).argmax() == 0, "red"
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "a.nef").touch()
    with pytest.raises(FileNotFoundError, match="what is there is not read: a.nef; give a file, or a folder of jpg"):
        find_images(str(tmp_path / "camera"))


def test_a_prompt_that_no_model_reads_is_said_to_change_nothing():
    asked = [SampleRequest("00000.png", prompt="red", inputs={"label": 1})]
    assert (
        idle_prompts(asked, ["label"])
        == "the prompt changes nothing: this model is conditioned on label, not on captions"
    )
    assert idle_prompts(asked, []) == "the prompt changes nothing: this model is unconditional"
    assert idle_prompts(asked, ["label", "caption"]) is None
    assert idle_prompts([SampleRequest("00000.png", inputs={"label": 1})], ["label"]) is None
