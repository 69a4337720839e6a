"""The stream as a loader gives it: the right pair, for any number of workers, past any damage, with flat memory."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import Buckets
from ldm.data.health import Health
from ldm.data.index import Index
from ldm.data.order import Draw
from ldm.data.shards import write_shards
from ldm.data.streaming import StreamedImages
from ldm.data.transforms import CaptionChoice
from ldm.picture import to_levels
from tests.data.shards import captioned, dataset, encoded, icons, level, numbered, sample, write_tar


def read_all(data, epochs=1):
    loader = data.train_dataloader()
    return [batch for _ in range(epochs) for batch in loader]


def fits(batch):
    """Whether keys, captions and gray levels belong together."""
    return all(
        caption == f"caption {int(key)}" and int(image[0, 0, 0]) == int(key) % 256
        for key, caption, image in zip(batch.key, batch.fields["caption"], to_levels(batch.fields["image"]))
    )


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


def test_few_shards_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.dataset.OPEN_SHARDS", 2)
    data = dataset(numbered(tmp_path, [1] * 6), tmp_path)
    for _ in range(2):
        assert [data[Draw(0, number)].key for number in range(6)] == [f"{number:06d}" for number in range(6)]
        assert len(data._handles) == 2


def broken_pair(tmp_path):
    """Forty samples of which number 7 has half an image and number 20 no caption, beside whole ones."""
    files = []
    for number in range(40):
        image = encoded_noise()[:700] if number == 7 else level(number)
        files += [
            (f"{number:06d}.png", image),
            (f"{number:06d}.txt", b" " if number == 20 else f"caption {number}".encode()),
        ]
    return write_tar(tmp_path / "train.tar", files)


def encoded_noise():
    from PIL import Image

    return encoded(Image.effect_noise((64, 64), 50))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_replaced_counted_and_named(tmp_path, workers, caplog):
    train = broken_pair(tmp_path)
    data = captioned(tmp_path, train=train, val=numbered(tmp_path, [4], split="val"), max_broken=0.2, workers=workers)
    data.set_batch(8, 1, 1)
    batches = read_all(data)
    assert [len(batch.key) for batch in batches] == [8] * 5
    assert all(map(fits, batches))
    assert sorted((skip.key, skip.reason) for batch in batches for skip in batch.skipped) == [
        ("000007", "unreadable image"), ("000020", "no caption"),
    ]  # fmt: skip
    whole = {f"{number:06d}" for number in range(40)} - {"000007", "000020"}
    assert {key for batch in batches for key in batch.key} == whole, "every other sample is there"
    assert data.health.reasons == {"unreadable image": 1, "no caption": 1}
    assert "left out sample '000007' in" in caplog.text


def test_a_replacement_depends_on_seed_epoch_and_number_alone(tmp_path):
    train = broken_pair(tmp_path)
    draws = [[dataset(train, tmp_path, seed=seed)[Draw(epoch, 7)].key for epoch in range(5)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1


def test_too_many_broken_samples_end_a_run_and_name_the_shards(tmp_path):
    train = broken_pair(tmp_path)
    data = captioned(tmp_path, train=train, val=numbered(tmp_path, [4], split="val"))
    data.set_batch(8, 1, 1)
    with pytest.raises(
        ValueError, match=r"1 of 40 samples cannot be used .*most of them in .*train.tar \(1\).*max_broken=0.01"
    ):
        read_all(data)


def test_the_share_is_of_what_was_seen_and_the_log_does_not_flood(caplog):
    from ldm.batch import Skip

    health = Health(0.01)
    for _ in range(5):
        health.count(100, [Skip("a.tar", "x", "no caption")] * 2, 10**6)
    with pytest.raises(ValueError, match="11 of 1000"):
        health.count(0, [Skip("a.tar", "x", "no caption")], 10**6)
    health = Health(0.5)  # of one that goes on
    for _ in range(1000):
        health.count(10, [Skip("a.tar", "x", "no caption")], 10**6)
    assert len(caplog.records) < 40


def test_nothing_but_broken_samples_is_an_error(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [(f"{i}.{e}", d) for i in range(9) for e, d in (("png", level(1)), ("txt", b" "))]
    )
    with pytest.raises(ValueError, match="samples drawn one after the other cannot be used"):
        dataset(path, tmp_path)[Draw(0, 0)]
    data = captioned(tmp_path, train=path, val=path)
    with pytest.raises(ValueError, match=r"9 of 9 samples looked at have no caption.*data.caption.fields"):
        data.check_fields()


def test_a_shard_that_vanishes_or_shrinks_while_it_is_read(tmp_path):
    data = dataset(numbered(tmp_path, [3, 3, 3, 30]), tmp_path)
    first, second, third, _ = sorted(tmp_path.glob("train*.tar"))
    assert data[Draw(0, 6)].skipped == [], "the third is open by now"
    os.remove(first)
    second.write_bytes(second.read_bytes().replace(b"caption", b"kaption"))
    third.write_bytes(third.read_bytes()[:2600])
    found = {skip.reason for number in range(9) for skip in data[Draw(0, number)].skipped}
    assert found == {"unreadable shard", "shard changed since it was indexed", "shard cut off"}


def test_captions_vary_in_training_and_stand_still_in_validation(tmp_path):
    train = numbered(tmp_path, [2])
    write_shards([sample("a", json=b'{"alts": ["x", "y", "z"]}')], tmp_path, "many", samples_per_shard=1)
    choice = CaptionChoice({"alts": 1})
    varied, still = (dataset(f"{tmp_path}/many*", tmp_path, caption=choice, varied=varied) for varied in (True, False))
    assert {varied[Draw(epoch, 0)].fields["caption"] for epoch in range(30)} == {"x", "y", "z"}
    assert (
        {still[Draw(epoch, 0)].fields["caption"] for epoch in range(30)} == {"x"} == {*varied.fields_of([0])["caption"]}
    )
    assert train


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
    with pytest.raises(ValueError, match="buckets need a side that is a multiple"):
        captioned(tmp_path, **{**settings, "size": 60})


def test_bucket_is_the_nearest_ratio(tmp_path):
    for name, size in (("a", (64, 64)), ("b", (90, 64)), ("c", (64, 200))):
        write_shards([sample(name, size=size, txt=b"x")], tmp_path, name, samples_per_shard=1)
    data = dataset(f"{tmp_path}/*.tar", tmp_path)
    buckets = Buckets.choose(data.index, 64, multiple=8, max_ratio=2.0)
    ratios = np.array([size.width / size.height for size in buckets.sizes])
    for number, ratio in enumerate((1, 90 / 64, 64 / 200)):
        assert np.abs(np.log(ratios[buckets.chosen[number]] / ratio)) == np.abs(np.log(ratios / ratio)).min()


def test_moments_in_memory_take_the_place_of_images(tmp_path):
    data = captioned(tmp_path, size=16, source=icons(tmp_path), cache_latents=True)
    data.set_batch(6, 1, 1)
    images = {key: image for batch in read_all(data) for key, image in zip(batch.key, batch.fields["image"])}
    data.hold(lambda image: image[:, :2, ::4, ::4], batch_size=5)
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
    """Over ten epochs, in this process and its workers, with a broken sample in each."""
    numbered(tmp_path, [100] * 4)
    write_tar(tmp_path / "train-x.tar", [("x.png", encoded_noise()[:700]), ("x.txt", b"x")])
    settings = {"train": f"{tmp_path}/train-*.tar", "val": numbered(tmp_path, [4], split="val"), "max_broken": 0.1}
    data = captioned(tmp_path, size=16, workers=workers, **settings)
    data.set_batch(16, 1, 1)
    loader, used = data.train_dataloader(), []
    for _ in range(13):
        for batch in loader:
            del batch
        used.append(private_memory())
    assert max(used[3:]) - used[3] < 4000, f"kilobytes: {used}"


def test_is_a_data_module_of_its_own(tmp_path, shards):
    data = CaptionedImages(size=8, cache=tmp_path, **shards)
    assert [fields["caption"] for fields in data.samples(["caption"], limit=3)] == [
        ["caption 0"],
        ["caption 13"],
        ["caption 26"],
    ]
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
        assert [data.val_set[Draw(0, number)].key for number in range(len(data.val_set))] == expected
        assert [key for batch in data.val_pass(2) for key in batch.key] == expected
        assert data.val_set.index.counts.sum() == len(data.val_set.index.column("number")) == limit
        prints.add(data.fingerprint)
    assert len(prints) == 4
    assert captioned(tmp_path, **shards, val_images=16).fingerprint == whole.fingerprint
    assert len(captioned(tmp_path, **shards, val_images=100).val_set) == 16
    assert len(Index(whole.val_set.index.shards, ["number >= 4"], limit=3)) == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_validation_shards_that_are_trained_on_are_named(tmp_path, caplog, streamed):
    train, val = numbered(tmp_path, [3, 2, 1]), numbered(tmp_path, [4], split="val")
    names = sorted(str(path) for path in tmp_path.glob("train*"))
    (tmp_path / "other").mkdir()
    shutil.copy(names[0], tmp_path / "other" / "copy.tar")
    os.symlink(names[1], tmp_path / "other" / "link.tar")

    def warnings(val):
        caplog.clear()
        data = (StreamedImages if streamed else CaptionedImages)(size=8, cache=tmp_path / "cache", train=train, val=val)
        data.open()
        data.open()
        return [record.message for record in caplog.records]

    assert warnings(val) == []
    (text,) = warnings([names[2], val, f"{tmp_path}/other/*.tar"])
    assert text.startswith(
        f"3 of 4 validation shards are trained on, too: {names[2]}, {tmp_path}/other/copy.tar (as {names[0]}), "
    )
    for other, name in (("copy", names[0]), ("link", names[1])):
        assert f"{tmp_path}/other/{other}.tar (as {name})" in text
    if streamed:
        (text,) = warnings(names[:1])
        assert names[0] in text


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
