"""What the images of an evaluation were made for, as its table says it."""

from types import SimpleNamespace

from ldm.batch import Size
from ldm.conditioner.label import LabelConditioner
from ldm.evaluate.conditions import ClassConditions
from ldm.evaluate.evaluation import _conditions
from ldm.evaluate.images import FolderImages
from ldm.evaluate.measured_images import FoundImages, SampledImages
from tests.data.packing import images


def sampled(names):
    model = SimpleNamespace(conditioner=LabelConditioner(3, width=8, names=names))
    opened = ClassConditions().open([model.conditioner], None, size=Size(8, 8), inputs=())
    return SampledImages(model, opened, None, sampler=None, guidance=None, seed=0, batch_size=1)


def test_classes_are_said_by_their_names():
    assert _conditions(sampled(["heart", "cat", "dog"]), [0, 1, 5]) == ["heart", "cat", "dog"]
    assert _conditions(sampled(None), [0, 1, 5]) == ["class 0", "class 1", "class 2"]


def test_nothing_is_said_of_images_that_were_found(tmp_path):
    assert _conditions(FoundImages(FolderImages(str(images(tmp_path / "found", 2)), None)), [0, 1]) == []
