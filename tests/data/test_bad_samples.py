"""Counting of bad samples: they are named, replaced, and too many of them end a run."""

import logging

import pytest

from ldm.data.bad_samples import BadSampleCounter
from ldm.data.shards.grouping import Leftover
from tests.data.small_shards import broken_pair, captioned, fits, level, numbered, opened, read_all, write_tar

PNG = level(7)


def test_too_many_left_out_is_an_error_that_lists_the_worst_shards(tmp_path, caplog):
    good = [(f"{i}.{e}", d) for i in range(99) for e, d in (("png", PNG), ("txt", b"x"))]
    write_tar(tmp_path / "good.tar", [*good, ("mute.png", PNG)])
    BadSampleCounter(0.01).check_index(opened(str(tmp_path / "good.tar"), tmp_path))
    assert "left out sample 'mute'" in caplog.text
    assert "1 of 100 samples cannot be used (no caption: 1)" in caplog.text
    write_tar(tmp_path / "bad.tar", [*good[:20], *((f"mute{i}.png", PNG) for i in range(5))])
    index = opened([str(tmp_path / "good.tar"), str(tmp_path / "bad.tar")], tmp_path)
    with pytest.raises(ValueError, match=r"6 of 115 .*no caption: 6.*bad.tar \(5\).*max_broken=0.01"):
        BadSampleCounter(0.01).check_index(index)
    BadSampleCounter(0.06).check_index(index)


def test_a_lost_shard_counts_as_an_average_one(tmp_path):
    numbered(tmp_path, [10] * 9)
    (tmp_path / "train-x.tar").write_bytes(b"<html>404</html>" * 100)
    index = opened(f"{tmp_path}/train-*.tar", tmp_path)
    with pytest.raises(ValueError, match="10 of 100 samples"):
        BadSampleCounter(0.09).check_index(index)
    BadSampleCounter(0.1).check_index(index)


@pytest.mark.parametrize("where", [0.5, 0.25])
def test_a_cut_shard_counts_as_what_it_lacks(tmp_path, where):
    numbered(tmp_path, [20] * 5)
    last = sorted(tmp_path.glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[: int(where * last.stat().st_size) // 512 * 512])
    index = opened(f"{tmp_path}/train-*.tar", tmp_path)
    missing = 100 - len(index)
    assert 20 * (1 - where) - 3 <= missing <= 20 * (1 - where) + 3
    with pytest.raises(ValueError, match="samples cannot be used"):
        BadSampleCounter((missing - 1) / 100).check_index(index)
    BadSampleCounter((missing + 2) / 100).check_index(index)


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
    assert data.bad_samples.reasons == {"unreadable image": 1, "no caption": 1}
    assert "left out sample '000007' in" in caplog.text


def test_too_many_broken_samples_end_a_run_and_name_the_shards(tmp_path):
    train = broken_pair(tmp_path)
    data = captioned(tmp_path, train=train, val=numbered(tmp_path, [4], split="val"))
    data.set_batch(8, 1, 1)
    with pytest.raises(
        ValueError, match=r"1 of 40 samples cannot be used .*most of them in .*train.tar \(1\).*max_broken=0.01"
    ):
        read_all(data)


def test_the_share_is_of_what_was_seen_and_the_log_does_not_flood(caplog):
    from ldm.batch import SkippedSample

    bad_samples = BadSampleCounter(0.01)
    for _ in range(5):
        bad_samples.count(100, [SkippedSample("a.tar", "x", "no caption")] * 2, 10**6)
    with pytest.raises(ValueError, match="11 of 1000"):
        bad_samples.count(0, [SkippedSample("a.tar", "x", "no caption")], 10**6)
    bad_samples = BadSampleCounter(0.5)  # of one that goes on
    for _ in range(1000):
        bad_samples.count(10, [SkippedSample("a.tar", "x", "no caption")], 10**6)
    assert len(caplog.records) < 40


def test_leftovers_do_not_flood_the_log(caplog):
    bad_samples = BadSampleCounter(0.0)
    caplog.set_level(logging.WARNING)
    for number in range(1000):
        bad_samples.count(
            1, [Leftover("a.tar", f"{number}.seg.png", "beside an image, but nothing here asks for them")], None
        )
    assert bad_samples.leftovers == {"beside an image, but nothing here asks for them": 1000}
    assert len(caplog.records) == 10
