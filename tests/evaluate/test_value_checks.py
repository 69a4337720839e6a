"""A sample with a value that the model does not allow is named, and nothing is made for it."""

import json
from types import SimpleNamespace

import pytest
import torch

from ldm.batch import Size
from ldm.conditioner.label import LabelConditioner
from ldm.data.value_checks import check_used
from ldm.evaluate.conditions import OpenSamples
from ldm.evaluate.loss import LossWork
from ldm.evaluate.measured_images import SampledImages
from tests.data.small_shards import captioned, sample, write_shards

WRONG = "label of the sample 'photo-3' has the value 9, .*num_classes=3 values are 0 to 2; mend this sample, or leave it out"


@pytest.fixture(params=["label", "image"])
def samples(tmp_path, request):
    """The samples of a data set, read with their images or without, whose fourth has a class that there is not."""
    labels = [0, 1, 2, 9, 1, 0, 2]
    write_shards(
        [sample(f"photo-{n}", number=n, json=json.dumps({"label": label}).encode()) for n, label in enumerate(labels)],
        tmp_path,
        "val",
        samples_per_shard=4,
    )
    shards = f"{tmp_path}/val*"
    data = captioned(tmp_path, train=shards, val=shards, fields=["label"])
    return OpenSamples(data.val_set, "", Size(8, 8), {"label", request.param})


@pytest.fixture
def model():
    made = []
    return SimpleNamespace(
        conditioner=LabelConditioner(3, width=4),
        autoencoder=SimpleNamespace(shift=torch.zeros(())),
        sample=lambda fields, **_: made.append(fields["label"].tolist()) or torch.zeros(len(fields["label"]), 3, 8, 8),
        made=made,
    )


def place_of(samples):
    """Return the number of the image that is made for the fourth sample."""
    return next(number for number in range(samples.period) if samples._sample(number) == 3)


def test_samples_are_looked_at_before_any_image_is_made_those_alone_that_are_used(samples, model):
    place = place_of(samples)
    samples.check([model.conditioner], place)
    for count in (place + 1, samples.period, 5 * samples.period):
        with pytest.raises(ValueError, match=f"in data.val, the field {WRONG}"):
            samples.check([model.conditioner], count)
    check_used(LabelConditioner(10, width=4), samples.samples, range(samples.period))


def test_a_sample_that_was_not_looked_at_is_named_when_its_image_is_made(samples, model, tmp_path):
    written = {}
    folder = SimpleNamespace(has_images=lambda _: False, write_image=written.__setitem__)
    images = SampledImages(model, samples, folder, sampler=None, guidance=None, seed=0, batch_size=2)
    place = place_of(samples)
    images.make([number for number in range(samples.period) if number != place])
    assert sorted(written) == [number for number in range(samples.period) if number != place]
    model.made.clear()
    with pytest.raises(ValueError, match=WRONG):
        images.make([place])
    assert model.made == []


def test_a_sample_whose_loss_cannot_be_measured_is_named(samples, model):
    folder = SimpleNamespace(request={"model": "", "samples": ""})
    place = SimpleNamespace(rank=0, world=1)
    work = LossWork(folder, place, samples.samples, range(7), Size(8, 8), model, batch_size=7)
    with pytest.raises(ValueError, match=WRONG):
        work.measure(range(7), ["loss"])


def test_names_are_those_of_the_samples_that_are_read_in_the_place_of_broken_ones(tmp_path):
    """The second of two samples has no label, so that the first is read again for it."""
    write_shards(
        [sample("right", json=b'{"label": 9}'), sample("broken", json=b"{}")], tmp_path, "val", samples_per_shard=2
    )
    shards = f"{tmp_path}/val*"
    found = captioned(tmp_path, train=shards, val=shards, fields=["label"]).val_set
    for image in (True, False):
        fields = found.whole_fields([0, 1], image=image)
        assert fields["key"] == ["right", "right"]
        with pytest.raises(ValueError, match="of the sample 'right' has the value 9"):
            LabelConditioner(3, width=4).check(fields)
