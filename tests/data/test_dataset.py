"""A data set of shards: reading of single samples, replacement of broken ones, captions, and buckets."""

import os

import numpy as np
import pytest

from ldm.data.dataset import Buckets
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.names import write_shards
from ldm.data.transforms import CaptionChoice
from tests.data.small_shards import broken_pair, captioned, dataset, level, numbered, sample, write_tar


def test_few_shards_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.dataset.OPEN_SHARDS", 2)
    data = dataset(numbered(tmp_path, [1] * 6), tmp_path)
    for _ in range(2):
        assert [data[SampleRef(0, number)].key for number in range(6)] == [f"{number:06d}" for number in range(6)]
        assert len(data._handles) == 2


def test_a_replacement_depends_on_seed_epoch_and_number_alone(tmp_path):
    train = broken_pair(tmp_path)
    draws = [[dataset(train, tmp_path, seed=seed)[SampleRef(epoch, 7)].key for epoch in range(5)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1


def test_nothing_but_broken_samples_is_an_error(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [(f"{i}.{e}", d) for i in range(9) for e, d in (("png", level(1)), ("txt", b" "))]
    )
    with pytest.raises(ValueError, match="samples drawn one after the other cannot be used"):
        dataset(path, tmp_path)[SampleRef(0, 0)]
    data = captioned(tmp_path, train=path, val=path)
    with pytest.raises(ValueError, match=r"9 of 9 samples looked at have no caption.*data.caption.fields"):
        data.check_fields()


def test_a_shard_that_vanishes_or_shrinks_while_it_is_read(tmp_path):
    data = dataset(numbered(tmp_path, [3, 3, 3, 30]), tmp_path)
    first, second, third, _ = sorted(tmp_path.glob("train*.tar"))
    assert data[SampleRef(0, 6)].skipped == [], "the third is open by now"
    os.remove(first)
    second.write_bytes(second.read_bytes().replace(b"caption", b"kaption"))
    third.write_bytes(third.read_bytes()[:2600])
    found = {skip.reason for number in range(9) for skip in data[SampleRef(0, number)].skipped}
    assert found == {"unreadable shard", "shard changed since it was indexed", "shard cut off"}


def test_captions_vary_in_training_and_stand_still_in_validation(tmp_path):
    train = numbered(tmp_path, [2])
    write_shards([sample("a", json=b'{"alts": ["x", "y", "z"]}')], tmp_path, "many", samples_per_shard=1)
    choice = CaptionChoice({"alts": 1})
    varied, still = (dataset(f"{tmp_path}/many*", tmp_path, caption=choice, varied=varied) for varied in (True, False))
    assert {varied[SampleRef(epoch, 0)].fields["caption"] for epoch in range(30)} == {"x", "y", "z"}
    assert (
        {still[SampleRef(epoch, 0)].fields["caption"] for epoch in range(30)}
        == {"x"}
        == {*varied.fields_of([0])["caption"]}
    )
    assert train


def test_bucket_is_the_nearest_ratio(tmp_path):
    for name, size in (("a", (64, 64)), ("b", (90, 64)), ("c", (64, 200))):
        write_shards([sample(name, size=size, txt=b"x")], tmp_path, name, samples_per_shard=1)
    data = dataset(f"{tmp_path}/*.tar", tmp_path)
    buckets = Buckets.choose(data.index, 64, multiple=8, max_ratio=2.0)
    ratios = np.array([size.width / size.height for size in buckets.sizes])
    for number, ratio in enumerate((1, 90 / 64, 64 / 200)):
        assert np.abs(np.log(ratios[buckets.chosen[number]] / ratio)) == np.abs(np.log(ratios / ratio)).min()
