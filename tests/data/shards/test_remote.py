"""Shards behind URLs and commands, with and without an index, from a server on this machine."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest

from ldm.data.dataset import collate, finish
from ldm.data.fields.caption import CaptionReader
from ldm.data.shards.names import find_shards
from ldm.data.streaming import ShardStream, StreamedImages
from ldm.data.transforms import CaptionChoice, ImageTransform
from tests.data.small_shards import captioned, fits, level, numbered, read_all, write_tar


@pytest.fixture
def server(tmp_path):
    """The folder that is served, its URL, and the paths that were asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()


def test_remote_shards_are_copied_once_and_then_like_any_others(tmp_path, server):
    folder, url, asked = server
    numbered(folder, [6, 6, 6])
    numbered(folder, [4], split="val")
    settings = {"train": f"{url}/train-{{000..002}}-000000.tar", "val": f"pipe:cat {folder}/val-000-000000.tar"}
    data = captioned(tmp_path, **settings)
    data.set_batch(6, 1, 1)
    batches = read_all(data)
    assert len({key for batch in batches for key in batch.key}) == 18
    assert all(map(fits, batches))
    assert len(asked) == 3
    again = captioned(tmp_path, **settings)
    again.set_batch(6, 1, 1)
    assert [batch.key for batch in read_all(again)] == [batch.key for batch in batches]
    assert len(asked) == 3, "nothing is copied twice"


def test_a_copy_that_fails_leaves_nothing_and_says_what(tmp_path, server):
    folder, url, _ = server
    with pytest.raises(
        OSError, match=r"cannot copy the shard 'http.*missing.tar'.*shards that were copied already are kept"
    ):
        find_shards(f"{url}/missing.tar", tmp_path / "copies")
    with pytest.raises(OSError, match="cannot copy the shard 'pipe:false'"):
        find_shards("pipe:false", tmp_path / "copies")
    assert not [path for path in (tmp_path / "copies").iterdir() if path.suffix != ".lock"]
    assert folder


def streamed(shards, **options):
    stream = ShardStream(
        shards, ImageTransform(8), [CaptionReader(CaptionChoice())], **{"seed": 0, "buffer": 20, **options}
    )
    return (finish(collate([item])) for item in stream)


def keys(stream, count):
    return [batch.key[0] for batch in islice(stream, count)]


def test_streaming_goes_on_for_ever_and_repeats_by_seed_rank_and_start(server):
    folder, url, _ = server
    numbered(folder, [6, 1, 9])
    shards = [f"{url}/train-{shard:03d}-000000.tar" for shard in range(3)]
    whole = list(islice(streamed(shards), 100))
    assert all(map(fits, whole))
    assert {batch.key[0] for batch in whole} == {f"{number:06d}" for number in range(16)}
    same = keys(streamed(shards), 40)
    assert same == [batch.key[0] for batch in whole[:40]]
    for other in ({"seed": 1}, {"rank": 1}, {"start": 5}):
        assert keys(streamed(shards, **other), 40) != same, other
    assert same != sorted(same), "shuffled"


def test_streaming_survives_damage_and_counts_it(tmp_path):
    pattern = numbered(tmp_path, [6, 6])
    shards = find_shards(pattern, tmp_path)
    broken = write_tar(tmp_path / "b.tar", [("a.png", b"123"), ("a.txt", b"x"), ("b.png", level(1)), ("c.txt", b"x")])
    (tmp_path / "html.tar").write_bytes(b"<html>" * 300)
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "train-000-000000.tar").read_bytes()[:4000])
    batches = list(islice(streamed([*shards, broken, str(tmp_path / "html.tar"), str(cut), "pipe:false"]), 200))
    assert all(map(fits, batches))
    reasons = {skip.reason.partition(":")[0] for batch in batches for skip in batch.skipped}
    assert reasons == {
        *("unreadable image", "no caption", "no image", "unreadable shard"),
        *("not a tar file", "shard damaged or without an end"),
    }
    with pytest.raises(ValueError, match=r"in a row cannot be used, the last is .*html.tar: not a tar file"):
        next(streamed([str(tmp_path / "html.tar")]))


def test_a_stream_of_which_nothing_can_be_decoded_ends(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.{e}", b"123") for i in range(50) for e in ("png", "txt")])
    with pytest.raises(ValueError, match=r"1001 samples or shards in a row cannot be used.*unreadable image"):
        next(streamed([path]))


def test_streamed_batches_of_several_workers(tmp_path):
    train, val = numbered(tmp_path, [6, 6]), numbered(tmp_path, [4], split="val")
    data = StreamedImages(
        size=8, cache=tmp_path, train=find_shards(train, tmp_path), val=val, workers=3, buffer=10, crop="random"
    )
    data.set_batch(8, 2, 1)
    data.check_fields()
    batches = list(islice(data.train_dataloader(), 30))
    assert all(map(fits, batches))
    assert {len(batch.key) for batch in batches} == {4}
    assert len({tuple(batch.key) for batch in batches}) > 15, "workers read different samples"
    assert [fields["caption"] for _, fields in data.samples(["caption"], 3)] == [
        ["caption 0"],
        ["caption 1"],
        ["caption 2"],
    ]
    assert sum(len(batch.key) for batch in data.training_pass(4, limit=10)) == 12
    with pytest.raises(ValueError, match="statistics_batches=1000"):
        data.training_pass(4)
