"""Validation shards that are trained on, too, are named in a warning."""

import os
import shutil

import pytest

from ldm.data.datamodule import CaptionedImages
from ldm.data.streaming import StreamedImages
from tests.data.small_shards import numbered


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
