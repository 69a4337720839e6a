"""What images are made for, without data: classes, and nothing."""

import pytest
import torch

from ldm.batch import Size
from ldm.classifier.label_classifier import Labels
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.unconditional import Unconditional
from ldm.evaluate.conditions import ClassConditions, NoConditions

SIZE = Size(32, 48)


def opened(readers, count=None, inputs=()):
    return ClassConditions(count).open(readers, no_data, size=SIZE, inputs=inputs)


def no_data():
    raise AssertionError("no data are read")


@pytest.mark.parametrize(
    "readers",
    [[LabelConditioner(6, width=8)], [Unconditional(), Labels(6)], [LabelConditioner(9, width=8), Labels(6)]],
    ids=["the model", "the guidance", "both, of which one knows fewer"],
)
def test_all_classes_are_shown_equally_often_and_image_i_depends_on_i_alone(readers):
    classes = opened(readers)
    assert torch.bincount(classes.fields(range(60))["label"]).tolist() == [10] * 6
    assert classes.fields([7, 12, 6])["label"].tolist() == [1, 0, 0]
    assert classes.size_of(7) == SIZE
    assert opened(readers, count=4).fields([7])["label"].tolist() == [3]


@pytest.mark.parametrize(
    ("readers", "options", "message"),
    [
        ([LabelConditioner(6, width=8)], {"count": 7}, r"conditions.count=7 classes cannot be: the model knows 6"),
        ([Unconditional()], {}, "conditions=classes needs a model conditioned on classes; choose conditions=samples"),
        (
            [LabelConditioner(6, width=8)],
            {"inputs": ["caption"]},
            "conditions=classes does not say caption, which the model",
        ),
    ],
)
def test_classes_that_there_are_not_are_refused(readers, options, message):
    with pytest.raises(ValueError, match=message):
        opened(readers, **options)


def test_an_unconditional_model_gets_no_fields():
    assert NoConditions().open([Unconditional()], no_data, size=SIZE, inputs=()).fields([3]).keys() == {"geometry"}
    with pytest.raises(ValueError, match="conditions=none does not say label"):
        NoConditions().open([Unconditional(), Labels(6)], no_data, size=SIZE, inputs=())
