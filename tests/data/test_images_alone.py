"""Images without any other file are samples where nothing but the image is needed, and are left out everywhere else."""

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Size
from ldm.data.datamodule import CaptionedImages
from ldm.data.degradations.bicubic import Bicubic
from ldm.data.fields.base import take_images_alone
from ldm.data.fields.choose import choose_readers
from ldm.data.masks.strokes import Strokes
from ldm.data.order.shuffle import SampleRef
from ldm.data.streaming import StreamedImages
from ldm.data.transforms import CaptionChoice
from ldm.evaluate.images import ShardImages
from ldm.files.picture import to_levels
from tests.data.small_shards import encoded, fits, keys, level, read_all, write_tar

COMPUTED = ["mask", "low_resolution", "geometry"]


@pytest.fixture
def bare(tmp_path):
    """A shard of twelve images alone, the first of which has a mask."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    files = [(f"{number:06d}.png", level(number)) for number in range(12)]
    return write_tar(tmp_path / "bare.tar", [*files, ("000000.mask.png", encoded(Image.fromarray(mask)))])


@pytest.fixture
def mixed(tmp_path):
    """A shard of twelve images, each third of which has a caption."""
    files = [
        [(f"{n:06d}.png", level(n)), *([(f"{n:06d}.txt", b"caption %d" % n)] if n % 3 == 0 else [])] for n in range(12)
    ]
    return write_tar(tmp_path / "mixed.tar", [file for sample in files for file in sample])


def captioned_by_themselves(tmp_path):
    """A shard of those samples of `mixed` that have captions."""
    files = [[(f"{n:06d}.png", level(n)), (f"{n:06d}.txt", b"caption %d" % n)] for n in range(0, 12, 3)]
    return write_tar(tmp_path / "pure.tar", [file for sample in files for file in sample])


def opened(kind, shard, tmp_path, **more):
    given = {"size": 8, "mask": Strokes(), "degradation": Bicubic(4), "seed": 3, "train": shard, "val": shard}
    data = kind(cache=tmp_path / "cache", **{**given, **({"buffer": 4} if kind is StreamedImages else {}), **more})
    data.open()
    data.set_batch(4, 1, 1)
    return data


def seen(data):
    """The keys of the training samples of one pass over a shard."""
    batches = data.training_pass(4, limit=48)
    return {key for batch in batches for key in batch.key}


def names(numbers):
    return [f"{number:06d}" for number in numbers]


def test_readers_say_what_needs_a_file():
    readers = {
        reader.name: reader
        for name in (*COMPUTED, "caption", "label", "boxes", "segmentation", "depth", "neighbors", "loss_weight")
        for reader in choose_readers([name], CaptionChoice(), degradation=Bicubic(4), mask=Strokes())
    }
    assert [name for name, reader in readers.items() if take_images_alone([reader])] == COMPUTED
    assert take_images_alone([])
    assert not take_images_alone([readers["mask"], readers["label"]])
    assert not take_images_alone(choose_readers(["mask"], CaptionChoice())), "without a generator, masks are read"


@pytest.mark.parametrize("kind", [CaptionedImages, StreamedImages])
@pytest.mark.parametrize("fields", [[], COMPUTED])
def test_images_alone_are_samples_where_nothing_else_is_needed(tmp_path, bare, kind, fields):
    data = opened(kind, bare, tmp_path, fields=fields)
    assert seen(data) == set(names(range(12)))
    data.check_fields()
    assert data.broken(12) == ([], 12)
    batch = next(iter(data.train_dataloader()))
    assert set(batch.fields) == {"image", "geometry", *fields}
    assert to_levels(batch.fields["image"])[:, 0, 0, 0].tolist() == [int(key) for key in batch.key]
    (val,) = list(data.val_pass(12))
    assert val.key == names(range(12))
    if fields:
        left = (torch.arange(8) < 4).float().expand(1, 8, 8)
        assert torch.equal(val.fields["mask"][0], left), "a mask that is there is read"
        assert not torch.equal(val.fields["mask"][1], left)


@pytest.mark.parametrize("kind", [CaptionedImages, StreamedImages])
@pytest.mark.parametrize("fields", [None, ["caption"], ["caption", "mask"]])
def test_where_captions_are_needed_images_alone_are_left_out(tmp_path, mixed, kind, fields):
    pure = captioned_by_themselves(tmp_path)
    data, expected = (opened(kind, shard, tmp_path, fields=fields, max_broken=0.9) for shard in (mixed, pure))
    assert keys(data.val_set.index) == names(range(0, 12, 3))
    assert data.fingerprint == expected.fingerprint
    assert seen(data) == set(names(range(0, 12, 3)))
    assert all(map(fits, read_all(data) if kind is CaptionedImages else [next(iter(data.train_dataloader()))]))
    with pytest.raises(ValueError, match=r"8 of 12 samples cannot be used \(no caption: 8\)"):
        opened(kind, mixed, tmp_path, fields=fields)
    bare = write_tar(tmp_path / "bare.tar", [(f"{number:06d}.png", level(number)) for number in range(12)])
    with pytest.raises(
        ValueError, match=r"no samples in 1 shards \(\S+bare.tar\): no caption; .*images alone are enough for"
    ):
        opened(kind, bare, tmp_path, fields=fields)


def test_the_order_of_captioned_samples_is_what_it_was(tmp_path, mixed):
    """The draws of each epoch are those of a shard that holds the captioned samples by themselves."""
    pure = captioned_by_themselves(tmp_path)
    first, second = (opened(CaptionedImages, shard, tmp_path, max_broken=0.9) for shard in (mixed, pure))
    assert first.state_dict() == second.state_dict()
    for epoch in range(3):
        assert np.array_equal(*(data.order.draws(epoch, 0, 4) for data in (first, second)))
    for number in range(4):
        found, expected = (data.train_set[SampleRef(1, number)] for data in (first, second))
        assert (found.key, found.fields["caption"]) == (expected.key, expected.fields["caption"])


@pytest.mark.parametrize("kind", [CaptionedImages, StreamedImages])
def test_what_a_model_needs_decides(tmp_path, mixed, kind):
    """The same data module serves stage 1 and a model that reads captions."""
    data = opened(kind, mixed, tmp_path, max_broken=0.9)
    counts = []
    for fields in ((), ("caption",), ("geometry",)):
        data.need(fields)
        data.open()
        data.set_batch(4, 1, 1)
        counts.append((len(data.val_set), len(seen(data))))
    assert counts == [(12, 12), (4, 4), (12, 12)]


def test_a_label_is_not_drawn(tmp_path, bare):
    with pytest.raises(ValueError, match=r"11 of 12 samples cannot be used \(no caption: 11\)"):
        opened(CaptionedImages, bare, tmp_path, fields=["label"])


def test_what_is_measured_are_images(tmp_path, bare):
    images = ShardImages(bare, Size(8, 8), tmp_path / "cache")
    assert len(images) == 12
    assert images.read([3, 5]).images.shape == (2, 3, 8, 8)
