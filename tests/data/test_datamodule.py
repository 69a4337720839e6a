"""Batches of the data module: the same for any number of workers and after a resume, past damage, with flat memory."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldm.batch import Batch
from ldm.conditioner.label import LabelConditioner
from ldm.data.datamodule import CaptionedImages
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.data.shards.names import write_shards
from tests.data.small_shards import captioned, encoded_noise, fits, icons, numbered, read_all, sample, write_tar


@pytest.fixture
def shards(tmp_path):
    return {"train": numbered(tmp_path, [13, 1, 9, 17]), "val": numbered(tmp_path, [5], split="val")}


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("order", [{}, {"streams": 4, "window": 5}])
def test_batches_are_the_same_for_any_number_of_workers(tmp_path, shards, workers, order):
    """More workers than shards are no trouble either."""
    settings = {**shards, **order, "size": 8, "crop": "random", "flip": True}
    reference, data = (captioned(tmp_path, workers=count, **settings) for count in (0, workers))
    for each in (reference, data):
        each.set_batch(6, 1, 1)
    expected, found = (read_all(each, epochs=2) for each in (reference, data))
    assert [batch.key for batch in found] == [batch.key for batch in expected]
    assert all(torch.equal(a.fields["image"], b.fields["image"]) for a, b in zip(found, expected))
    assert all(map(fits, found))
    assert len({key for batch in found[:6] for key in batch.key}) == 36
    assert len(found) == 2 * (40 // 6)


def test_mixtures(tmp_path):
    train = [
        {"shards": numbered(tmp_path / "a", [30, 10]), "weight": 3},
        {"shards": numbered(tmp_path / "b", [20]), "weight": 1},
    ]
    data = captioned(tmp_path, train=train, val=numbered(tmp_path, [4], split="val"))
    data.set_batch(10, 1, 1)
    numbers = [draw.number for _ in range(200) for batch in data._stream(0, 1) for draw in batch]
    assert np.mean(np.array(numbers) < 40) == pytest.approx(0.75, abs=0.01)
    assert all(map(fits, read_all(data)))
    with pytest.raises(ValueError, match="a mixture has no buckets"):
        captioned(tmp_path, train=train, val=f"{tmp_path}/val*.tar", buckets={"multiple": 8, "max_ratio": 2})
    with pytest.raises(ValueError, match="every data set has a weight"):
        captioned(tmp_path, train=[train[0], f"{tmp_path}/b/*.tar"], val=f"{tmp_path}/val*.tar")


OTHER = Batch(["other"], {})


def test_overfitting_repeats_the_first_batches_of_each_stage(tmp_path, shards):
    data, checked = captioned(tmp_path, **shards), []
    data.add_check(lambda fields, keys: checked.append(keys))
    for size in (4, 2):
        data.trainer = None
        data.set_batch(size, 1, 1)
        batches = [batch.key for batch, _ in zip(data.train_dataloader(), range(5), strict=False)]
        loop = SimpleNamespace(total_batch_idx=-1)
        data.trainer = SimpleNamespace(
            overfit_batches=2,
            training=True,
            fit_loop=loop,
            global_rank=0,
            world_size=1,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        for place in (0, 1, 2, 3, 1):
            loop.total_batch_idx = place - 1
            assert data.on_before_batch_transfer(OTHER, 0).key == batches[place % 2]
            assert checked.pop() == batches[place % 2], "what is trained on is what is checked"
        data.trainer.training = False
        assert data.on_before_batch_transfer(OTHER, 0) is OTHER
        data.trainer.training, data.trainer.overfit_batches = True, 0
        assert data.on_before_batch_transfer(OTHER, 0) is OTHER


def test_values_of_batches_are_checked_before_they_leave_the_cpu(tmp_path, shards):
    data = captioned(tmp_path, **shards)
    data.set_batch(4, 1, 1)
    seen = []
    data.add_check(lambda fields, keys: seen.append((keys, fields["caption"])))
    for batch in (next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))):
        assert data.on_before_batch_transfer(batch, 0) is batch
        assert seen.pop() == (batch.key, batch.fields["caption"])
    label = LabelConditioner(3, width=4)
    data.add_check(label.check)
    with pytest.raises(ValueError, match="label of the sample 'b' has the value 3, .*num_classes=3 values are 0 to 2"):
        data.on_before_batch_transfer(Batch(["a", "b"], {"caption": ["x", "y"], "label": torch.tensor([0, 3])}), 0)


def test_buckets_keep_the_shape_of_images(tmp_path):
    shapes = {"square": (64, 64), "wide": (96, 48), "tall": (40, 100), "strip": (400, 20)}
    samples = [sample(f"{name}-{i}", size=size, txt=b"x") for i in range(9) for name, size in shapes.items()]
    write_shards(samples, tmp_path, "train", samples_per_shard=9)
    settings = {
        "train": f"{tmp_path}/train*",
        "val": f"{tmp_path}/train*",
        "size": 64,
        "buckets": {"multiple": 16, "max_ratio": 2.0},
    }
    data = captioned(tmp_path, crop="random", workers=2, **settings)
    sizes = data.train_set.buckets.sizes
    assert all(size.height % 16 == size.width % 16 == 0 and max(size) <= 2 * min(size) for size in sizes)
    assert all(abs(size.height * size.width / 64**2 - 1) < 0.2 for size in sizes)
    data.set_batch(4, 1, 1)
    seen = {}
    for batch in read_all(data, epochs=2):
        height, width = batch.fields["image"].shape[2:]
        for key in batch.key:
            seen.setdefault(key.partition("-")[0], set()).add((height, width))
    assert seen == {"square": {(64, 64)}, "wide": {(48, 80)}, "strip": {(48, 80)}, "tall": {(80, 48)}}
    with pytest.raises(ValueError, match="buckets need a size that is a multiple"):
        captioned(tmp_path, **{**settings, "size": 60})


def test_moments_in_memory_take_the_place_of_images(tmp_path):
    data = captioned(tmp_path, size=16, source=icons(tmp_path), cache_latents=True)
    data.set_batch(6, 1, 1)
    images = {key: image for batch in read_all(data) for key, image in zip(batch.key, batch.fields["image"])}
    data.cache_latents(lambda image: image[:, :2, ::4, ::4], batch_size=5)
    for batch in read_all(data):
        assert "image" not in batch.fields
        for key, moments in zip(batch.key, batch.fields["moments"]):
            assert torch.equal(moments, images[key][:2, ::4, ::4])
    with pytest.raises(ValueError, match="latents can be cached only"):
        captioned(tmp_path, size=16, source=icons(tmp_path), cache_latents=True, flip=True)


def test_a_batch_that_cannot_be_shared_is_an_error(tmp_path, shards):
    data = captioned(tmp_path, **shards)
    with pytest.raises(
        ValueError, match="batch_size 6 is not a multiple of accumulate 2 times 2 processes; use a multiple of 4"
    ):
        data.set_batch(6, 2, 2)
    with pytest.raises(ValueError, match="5 validation images for 8 processes"):
        data.set_batch(8, 1, 8)
    with pytest.raises(ValueError, match="too little data for one step of 41"):
        data.set_batch(41, 1, 1)


def test_a_state_of_other_shards_is_refused(tmp_path, shards):
    data = captioned(tmp_path, **shards)
    data.set_batch(6, 1, 1)
    state = {"position": 3, "shards": data.train_set.index.fingerprint}
    expected = read_all(data)
    data.load_state_dict(state)
    assert [batch.key for batch in read_all(data)] == [batch.key for batch in expected[3:]]
    numbered(tmp_path, [13, 2, 9, 17])
    with pytest.raises(ValueError, match="training shards, or what is in them, have changed"):
        captioned(tmp_path, **shards).load_state_dict(state)


def test_going_on_reads_only_the_shards_that_were_stopped_in(tmp_path, monkeypatch):
    """Bytes read to make the first batch after a resume, from 4 and from 64 shards of the same size."""
    read = {}
    pread = os.pread

    def counting(handle, size, offset):
        path = os.readlink(f"/proc/self/fd/{handle}")
        read[path] = read.get(path, 0) + size
        return pread(handle, size, offset)

    totals = {}
    for count in (4, 64):
        train = numbered(tmp_path / str(count), [20] * count)
        settings = {"train": train, "val": numbered(tmp_path, [4], split="val"), "streams": 4, "window": 20}
        captioned(tmp_path, **settings)  # makes the indexes
        monkeypatch.setattr(os, "pread", counting)
        data = captioned(tmp_path, **settings)
        data.set_batch(8, 1, 1)
        data.position = len(data.train_set) // 16
        read.clear()
        assert fits(next(iter(data.train_dataloader())))
        totals[count] = sum(read.values()), len(read)
        monkeypatch.setattr(os, "pread", pread)
    assert totals[4][1] <= 8
    assert totals[64][1] <= 8, "at most two shards of each stream"
    assert totals[64][0] == pytest.approx(totals[4][0], rel=0.1), "whatever the size of the data"


def private_memory():
    """Kilobytes that this process and its workers have for themselves."""
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    total = 0
    for process in ["self", *children]:
        lines = Path("/proc", process, "smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    return total


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat(tmp_path, workers):
    """In this process and its workers, with a broken sample in each epoch.

    A leak grows in every epoch. Workers that have just been made copy a page of this process when they first write to it,
    which ends: so it is enough that three epochs in a row, of up to forty, want less than 0.4 kB a sample more.
    """
    numbered(tmp_path, [100] * 4)
    write_tar(tmp_path / "train-x.tar", [("x.png", encoded_noise()[:700]), ("x.txt", b"x")])
    settings = {"train": f"{tmp_path}/train-*.tar", "val": numbered(tmp_path, [4], split="val"), "max_broken": 0.1}
    data = captioned(tmp_path, size=16, workers=workers, **settings)
    data.set_batch(16, 1, 1)
    loader, used = data.train_dataloader(), []
    for _ in range(40):
        for batch in loader:
            del batch
        used.append(private_memory())
        if len(used) > 3 and used[-1] - used[-4] < 500:
            return
    pytest.fail(f"kilobytes: {used}")


def test_is_a_data_module_of_its_own(tmp_path, shards):
    data = CaptionedImages(size=8, cache=tmp_path, **shards)
    found = list(data.samples(["caption"], limit=3))
    assert [fields["caption"] for _, fields in found] == [["caption 0"], ["caption 13"], ["caption 26"]]
    keys = {caption: key for batch in data.training_pass(4) for key, caption in zip(batch.key, batch.fields["caption"])}
    assert [key for key, _ in found] == [keys[f"caption {number}"] for number in (0, 13, 26)]
    assert data.fingerprint != CaptionedImages(size=16, cache=tmp_path, **shards).fingerprint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0), ("size", 8.0), ("workers", -1), ("workers", True), ("seed", "abc"), ("seed", 1.5), ("max_broken", 2),
        ("max_broken", float("nan")), ("val_images", 0), ("crop", "middle"), ("flip", "yes"), ("streams", 0), ("window", 0),
        ("cache_latents", None),
    ],
)  # fmt: skip
def test_options_are_checked_before_anything_is_read(tmp_path, shards, option, value):
    with pytest.raises(ValueError, match=rf"^data.{option}=\S+ cannot be; give "):
        captioned(tmp_path, **{**shards, option: value})
    assert not list(tmp_path.glob(".*.index"))


def test_validation_images_are_bounded(tmp_path):
    shards = {"train": numbered(tmp_path, [5]), "val": numbered(tmp_path, [4, 0, 3, 9], split="val")}
    whole = captioned(tmp_path, **shards)
    prints = {whole.fingerprint}
    for limit in (1, 5, 15):
        data = captioned(tmp_path, **shards, val_images=limit)
        expected = [f"{number * 16 // limit:06d}" for number in range(limit)]
        assert [data.val_set[SampleRef(0, number)].key for number in range(len(data.val_set))] == expected
        assert [key for batch in data.val_pass(2) for key in batch.key] == expected
        assert data.val_set.index.counts.sum() == len(data.val_set.index.column("number")) == limit
        prints.add(data.fingerprint)
    assert len(prints) == 4
    assert captioned(tmp_path, **shards, val_images=16).fingerprint == whole.fingerprint
    assert len(captioned(tmp_path, **shards, val_images=100).val_set) == 16
    assert len(DatasetIndex(whole.val_set.index.shards, ["number >= 4"], limit=3)) == 3


def test_a_state_goes_on_with_the_same_data_in_another_folder(tmp_path, shards):
    data = captioned(tmp_path, **shards)
    state = {**data.state_dict(), "position": 3}
    (tmp_path / "moved").mkdir()
    for number, name in enumerate(sorted(tmp_path.glob("train*"))):
        shutil.copy(name, tmp_path / "moved" / f"{number}.tar")
    moved = captioned(tmp_path / "moved", train=f"{tmp_path}/moved/*.tar", val=f"{tmp_path}/train-000*.tar")
    moved.load_state_dict(state)
    assert moved.position == 3
    fewer = captioned(tmp_path / "moved", train=f"{tmp_path}/moved/[12].tar", val=shards["val"])
    with pytest.raises(ValueError, match=r"\(40 samples, now 10 samples in 2 shards\).*may lie in another folder"):
        fewer.load_state_dict(state)


def test_memory_is_pinned_for_a_gpu_that_trains_alone(shards, tmp_path, monkeypatch):
    """Not where a machine has a GPU and trains on its CPU."""
    data = captioned(tmp_path, **shards)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cpu", "cuda"):
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
        assert data.val_pass(2).pin_memory == (device == "cuda")
