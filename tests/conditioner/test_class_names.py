"""Names of classes: where they come from, that they travel in the state dict, and what is said of names that are unknown."""

import pytest
import torch

from ldm.conditioner.class_names import class_names
from ldm.conditioner.composite import Composite
from ldm.conditioner.in_words import in_words
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from tests.conditioner.small import LAYOUT

NAMES = ["heart", "cat", "great white shark", "crane", "crane"]


def conditioner(names=None):
    return LabelConditioner(5, width=8, names=names)


def test_a_name_is_the_number_of_its_place_in_a_list_or_a_file(tmp_path):
    file = tmp_path / "names.txt"
    text = "\n".join(NAMES) + "\n\n"
    for known, encoding in (
        (conditioner(NAMES), None),
        *((conditioner(str(file)), one) for one in ("utf-8", "utf-8-sig")),
    ):
        if encoding is not None:  # some editors begin a file with a mark that is no text
            file.write_text(text, encoding=encoding)
            known.prepare(None)
        assert [class_names(known, "label").number(name) for name in NAMES[:3]] == [0, 1, 2]


def test_names_travel_in_the_state_dict_and_their_file_may_be_gone(tmp_path):
    state = conditioner(NAMES).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    again = conditioner(str(tmp_path / "gone.txt"))
    again.load_state_dict(state)
    assert class_names(again, "label").number("cat") == 1
    again.prepare(None)  # nothing is read again


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("haert", "knows no class 'haert'; did you mean heart"),
        ("", "knows no class ''; choose from heart, cat, great white shark"),
        ("zzz", "knows no class 'zzz'; choose from heart, cat"),
        ("crane", "several classes are called 'crane': give the number of one, 3 or 4"),
    ],
)
def test_what_is_no_name_of_one_class_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        class_names(conditioner(NAMES), "label").number(name)


def test_a_model_without_names_says_so():
    for known in (conditioner(), torch.nn.Identity()):
        with pytest.raises(ValueError, match="by their numbers, not by names like 'cat'; give the number"):
            class_names(known, "label").number("cat")


def test_names_that_do_not_fit_the_classes_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="conditioner.names has 2 names, but there are 5 classes; give a name for each"
    ):
        conditioner(["a", "b"])
    with pytest.raises(ValueError, match="has 30 names, but there are 29 classes; give one to as many"):
        LayoutConditioner(**LAYOUT, names=["a"] * 30)
    with pytest.raises(ValueError, match="are texts; got"):
        conditioner([1, 2, 3, 4, 5])
    for name, data in (("gone.txt", None), ("bytes.txt", b"\xff\xfe\xff")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a text file"):
            conditioner(str(tmp_path / name)).prepare(None)
    (tmp_path / "few.txt").write_text("a\nb")
    with pytest.raises(ValueError, match="has 2 names"):
        conditioner(str(tmp_path / "few.txt")).prepare(None)


def test_each_part_of_a_composite_knows_its_own_names():
    both = Composite(
        {"label": LabelConditioner(2, width=16, names=["a", "b"]), "layout": LayoutConditioner(**LAYOUT, names=["b"])},
        width=16,
    )
    assert class_names(both, "label").number("b") == 1
    assert class_names(both, "boxes").number("b") == 0


def test_a_class_is_said_by_its_name_and_by_its_number_where_that_is_not_enough():
    known = conditioner([*NAMES[:2], "", *NAMES[3:]])
    fields = {"label": torch.arange(5)}
    assert in_words(fields, 5, Composite([known])) == ["heart", "cat", "class 2", "class 3 (crane)", "class 4 (crane)"]
    assert in_words(fields, 5, conditioner()) == [f"class {number}" for number in range(5)]
    assert in_words({"caption": ["a\n cat"], **fields}, 1, known) == ["a cat"], "where it has a caption, that"
    assert in_words({"image": torch.zeros(2)}, 2, known) == ["", ""]


def test_boxes_are_said_by_name_and_corners_to_models_conditioned_on_boxes():
    layout = LayoutConditioner(**LAYOUT, names=["heart", "sea lion"])
    boxes = [[[1, 0, 0.25, 0.5, 1], [4, 0.125, 0, 1, 1], [-1, 0, 0, 0, 0]], [[-1, 0, 0, 0, 0]] * 3]
    fields = {"boxes": torch.tensor(boxes)}
    assert in_words(fields, 2, layout) == ["sea lion [0.00, 0.25, 0.50, 1.00], class 4 [0.12, 0.00, 1.00, 1.00]", ""]
    assert in_words(fields, 2, conditioner()) == ["", ""]


def test_few_names_of_many_classes_are_no_names_of_others():
    names = class_names(LayoutConditioner(**LAYOUT, names=["a", "b\nc"]), "boxes")
    assert [names.in_words(number) for number in range(3)] == ["a", "b c", "class 2"]
