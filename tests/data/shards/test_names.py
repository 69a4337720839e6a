"""Names of shards: patterns, folders of odd names, and shards that are written whole."""

from pathlib import Path

import pytest

from ldm.data.shards.names import find_shards, name_shards, write_shard, write_shards
from ldm.data.streaming import StreamedImages
from tests.data.small_shards import captioned, numbered, sample


def test_patterns(tmp_path):
    write_shards([sample(f"{i}", txt=b"x") for i in range(6)], tmp_path, "s", samples_per_shard=2)
    find = lambda pattern: find_shards(pattern, tmp_path)  # noqa: E731
    braces = find(str(tmp_path / "s-{000000..000002}.tar"))
    assert len(braces) == 3
    assert braces == find(str(tmp_path / "s-*.tar"))
    assert braces == find([str(tmp_path / "s-000000.tar"), str(tmp_path / "s-00000[12].tar")])
    with pytest.raises(FileNotFoundError, match=r"s-000003.tar.*1 of 4 files"):
        find(str(tmp_path / "s-{000000..000003}.tar"))


@pytest.mark.parametrize(
    "folder", ["[2023]", "{a}", "{a,b}", "{a", "*", "what?", "50%d", "a::b", "${WDS_NONE}", "a'b\"c\\\\d"]
)
def test_folders_are_taken_by_their_very_names(tmp_path, monkeypatch, folder):
    numbered(tmp_path / folder, [1, 1])
    names = sorted(str(path) for path in (tmp_path / folder).iterdir())
    assert len(names) == 2
    patterns = ("train-*.tar", "train-00[01]-000000.tar", "train-{000..001}-000000.tar")
    for pattern in patterns:
        assert name_shards(f"{tmp_path}/{folder}/{pattern}") == names
    assert name_shards(names) == names
    monkeypatch.chdir(tmp_path)
    assert name_shards(f"./{folder}/{patterns[0]}") == [f"./{folder}/{Path(name).name}" for name in names]
    with pytest.raises(FileNotFoundError, match="is a folder; give the shards in it"):
        name_shards(str(tmp_path / folder))
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match="no shard is in it; images become shards by python -m ldm.data.pack"):
        name_shards(str(tmp_path / "photos"))


@pytest.mark.parametrize("pattern", [None, "", [], ["a.tar", 5], [None]])
def test_what_names_no_shards_is_refused(tmp_path, pattern):
    for split in ("train", "val"):
        none_to_train_on = split == "train" and pattern is None
        said = "no training images are named; give data.train=" if none_to_train_on else "shards are named by a path"
        with pytest.raises(ValueError, match=said):
            captioned(tmp_path, **{"train": numbered(tmp_path, [1]), "val": numbered(tmp_path, [1]), split: pattern})


def test_a_stream_without_training_images_is_for_validation_alone(tmp_path):
    data = StreamedImages(train=None, val=numbered(tmp_path, [1]), size=8, cache=tmp_path / "cache")
    assert len(data.open_validation()) == 1
    with pytest.raises(ValueError, match="no training images are named; give data.train="):
        data.open()


def test_patterns_may_have_patterns_in_their_folders(tmp_path):
    for folder in ("1", "2", "[1]"):
        numbered(tmp_path / folder, [1])
    shards = [f"{tmp_path}/{folder}/train-000-000000.tar" for folder in "12"]
    assert name_shards(f"{tmp_path}/[12]/*.tar") == shards
    assert name_shards(f"{tmp_path}/{{1,2}}/train*") == shards
    assert name_shards("::".join(shards)) == shards
    assert name_shards(f"{tmp_path}/[1]/*.tar") == [f"{tmp_path}/[1]/train-000-000000.tar"], "it is there by this name"
    (tmp_path / "{x}.tar").write_bytes(b"")
    assert name_shards(f"{tmp_path}/{{x}}.tar") == [f"{tmp_path}/{{x}}.tar"]


def test_a_shard_is_written_whole_or_not_at_all(tmp_path):
    def failing():
        yield sample("a", txt=b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", failing())
    assert list(tmp_path.iterdir()) == []
