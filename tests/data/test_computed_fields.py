"""Fields that are computed from the image or drawn, those of arrays, and weights of pixels."""

import io
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.datamodule import CaptionedImages
from ldm.data.decode import Broken, decode_array
from ldm.data.degradations.bicubic import Bicubic
from ldm.data.degradations.bsr_light import BSRLight
from ldm.data.fields.base import Files
from ldm.data.fields.embeddings import ImageEmbeddingReader, NeighborsReader
from ldm.data.latents import pack_latent
from ldm.data.masks.strokes import Strokes
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import copied
from ldm.data.streaming import StreamedImages
from ldm.data.transforms import CaptionChoice
from ldm.files.picture import to_levels
from tests.data.small_shards import captioned, encoded, level, read_all, sample, write_shards, write_tar

COMPUTED = ["low_resolution", "mask"]


def npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Twelve images of 48 x 40 noise; the first has a mask of its own, white on its left half."""
    entries = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        entries += [(f"{number:04d}.png", encoded(Image.fromarray(noise))), (f"{number:04d}.txt", b"noise")]
    mask = np.zeros((48, 40), np.uint8)
    mask[:, :20] = 255
    entries.append(("0000.mask.png", encoded(Image.fromarray(mask))))
    return write_tar(tmp_path / "all.tar", entries)


def options(shards, tmp_path, **more):
    chosen = {"degradation": Bicubic(4), "mask": Strokes(), "fields": COMPUTED, "seed": 3, "size": 32}
    return {"train": shards, "val": shards, "cache": tmp_path, **chosen, **more}


def opened(shards, tmp_path, **more):
    data = CaptionedImages(**options(shards, tmp_path, **more))
    data.open()
    return data


@pytest.mark.parametrize("degradation", [Bicubic(4), BSRLight(4)], ids=["bicubic", "bsr_light"])
def test_low_resolution_is_the_degraded_image_that_the_batch_has(tmp_path, shards, degradation):
    data = opened(shards, tmp_path, degradation=degradation, crop="random", flip=True)
    data.set_batch(4, 1, 1)
    for batch in read_all(data):
        assert batch.fields["low_resolution"].shape == (4, 3, 8, 8)
        assert batch.fields["mask"].shape == (4, 1, 32, 32)
        assert set(batch.fields["mask"].unique().tolist()) == {0.0, 1.0}
        for key, image, low in zip(batch.key, batch.fields["image"], batch.fields["low_resolution"]):
            levels = to_levels(image).permute(1, 2, 0).numpy()
            expected = degradation(levels, random.Random(f"3/0/{key}/low_resolution"))
            assert np.array_equal(to_levels(low).permute(1, 2, 0).numpy(), expected)


def test_they_depend_on_seed_epoch_and_key_alone(tmp_path, shards):
    make = {"degradation": BSRLight(4)}
    first, again, few = (opened(shards, tmp_path, **make, **more) for more in ({}, {}, {"val_images": 5}))
    for number in range(12):
        one, same = first.train_set[SampleRef(2, number)], again.train_set[SampleRef(2, number)]
        later = first.train_set[SampleRef(3, number)]
        for name in COMPUTED:
            assert torch.equal(one.fields[name], same.fields[name])
        assert not torch.equal(one.fields["low_resolution"], later.fields["low_resolution"])
        assert torch.equal(one.fields["mask"], later.fields["mask"]) == (number == 0), "that has a mask of its own"
    other = opened(shards, tmp_path, **make, **{"seed": 4})
    assert not torch.equal(
        other.train_set[SampleRef(2, 1)].fields["mask"], first.train_set[SampleRef(2, 1)].fields["mask"]
    )
    whole = {item.key: item.fields for item in map(first.val_set.__getitem__, (SampleRef(0, n) for n in range(12)))}
    for number in range(5):
        item = few.val_set[SampleRef(0, number)]
        assert torch.equal(item.fields["mask"], whole[item.key]["mask"]), "whichever others there are"
    looked_at = first.val_set.fields_of(range(12))
    for number in range(12):
        item = first.val_set[SampleRef(0, number)]
        assert all(torch.equal(looked_at[name][number], item.fields[name]) for name in COMPUTED)
    own = whole["0000"]["mask"]
    assert torch.equal(own[0], (torch.arange(32) < 16).float().expand(32, 32)), "a sample's own mask is taken"


def test_a_run_that_continues_sees_the_same(tmp_path, shards):
    whole, rest = (opened(shards, tmp_path, degradation=BSRLight(4)) for _ in range(2))
    for data in (whole, rest):
        data.set_batch(4, 1, 1)
    batches = read_all(whole, 2)
    rest.load_state_dict({**whole.state_dict(), "position": 2})
    for one, other in zip(batches[2:], read_all(rest, 2)):
        assert one.key == other.key
        assert all(torch.equal(one.fields[name], other.fields[name]) for name in COMPUTED)


def test_with_latents_in_memory_they_are_drawn_anew(tmp_path, shards):
    given = {"degradation": BSRLight(4), "fields": [*COMPUTED, "caption"]}
    pictures, held = opened(shards, tmp_path, **given), opened(shards, tmp_path, **given, cache_latents=True)
    held.cache_latents(lambda image: image[:, :2, ::4, ::4], batch_size=4)
    for number in (0, 1, 7):
        for epoch in range(3):
            expected, got = pictures.train_set[SampleRef(epoch, number)], held.moments[SampleRef(epoch, number)]
            assert set(got.fields) == {"caption", "low_resolution", "mask", "moments", "geometry"}
            assert all(torch.equal(got.fields[name], expected.fields[name]) for name in COMPUTED)


def test_a_stream_gives_them_too(tmp_path, shards):
    data = StreamedImages(**options(shards, tmp_path, buffer=1))
    data.open()
    data.set_batch(4, 1, 1)
    batch = next(iter(data.train_dataloader()))
    expected = [
        Bicubic(4)(to_levels(image).permute(1, 2, 0).numpy(), random.Random(0)) for image in batch.fields["image"]
    ]
    assert np.array_equal(to_levels(batch.fields["low_resolution"]).permute(0, 2, 3, 1).numpy(), np.stack(expected))
    ((_, one),) = data.samples(COMPUTED, 1)
    assert one["mask"].shape == (1, 1, 32, 32)


def test_what_cannot_be_is_said_before_anything_is_read(tmp_path, shards):
    with pytest.raises(ValueError, match=r"images of 30 x 30 pixels cannot be made smaller by degradation.factor=4"):
        CaptionedImages(**options("a.tar", tmp_path, size=30, train=shards, val=shards))
    unused = CaptionedImages(**options(shards, tmp_path, size=30, fields=["caption"]))
    unused.need(["caption"])
    with pytest.raises(ValueError, match="cannot be made smaller"):
        unused.need(["low_resolution"])
    with pytest.raises(ValueError, match=r"there is none; type degradation=bicubic"):
        CaptionedImages(**options(shards, tmp_path, degradation=None))
    without = opened(shards, tmp_path, mask=None, fields=["mask"], max_broken=1.0)
    assert [skip.key for skip in without.val_set.broken(range(12))] == [f"{number:04d}" for number in range(1, 12)]
    with pytest.raises(ValueError, match=r"images of .* pixels cannot be made smaller"):
        opened(shards, tmp_path, degradation=Bicubic(16), buckets={"multiple": 8, "max_ratio": 2.0})


def test_arrays_and_weights_beside_the_image(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 4, 5)).astype(np.float16)
    weight = np.zeros((8, 8), np.uint16)
    weight[:, 4:] = 65535
    samples = [
        sample(
            f"{number}",
            number=number,
            txt=b"x",
            **{"neighbors.npy": npy(vectors[number]), "embedding.npy": npy(np.asfortranarray(vectors[number, :2]))},
            **{"weight.png": encoded(Image.fromarray(weight))},
        )
        for number in range(6)
    ]
    write_shards(samples, tmp_path, "train", samples_per_shard=6)
    names = ["neighbors", "image_embedding", "loss_weight"]
    pattern = f"{tmp_path}/train-*.tar"
    data = captioned(tmp_path, train=pattern, val=pattern, fields=names)
    data.set_batch(6, 1, 1)
    (batch,) = read_all(data)
    order = [int(key) for key in batch.key]
    assert torch.equal(batch.fields["neighbors"], torch.from_numpy(vectors[order]).float())
    assert torch.equal(batch.fields["image_embedding"], torch.from_numpy(vectors[order, :2]).float())
    assert torch.equal(batch.fields["loss_weight"], (torch.arange(8) > 3).float().expand(6, 1, 8, 8))
    streamed = StreamedImages(train=pattern, val=pattern, size=8, cache=tmp_path, fields=names, buffer=1)
    streamed.open()
    streamed.set_batch(2, 1, 1)
    found = next(iter(streamed.train_dataloader()))
    assert torch.equal(found.fields["neighbors"], torch.from_numpy(vectors[[int(key) for key in found.key]]).float())


def header(shape, kind="<f4"):
    """The beginning of a .npy that says it has this shape."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


class Bomb:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"no array", "unreadable"),
        (npy(np.ones((2, 3), np.float32))[:-1], "unreadable"),
        (npy(np.ones((2, 3), np.float32)) + b"x", "unreadable"),
        (npy(np.ones((2, 3), np.int64)), "unreadable"),
        (npy(np.ones((0, 3), np.float32)), "unreadable"),
        (npy(np.array([[1.0, np.nan]])), "unreadable"),
        (npy(np.full((1, 2), 1e300)), "unreadable"),
        (npy(np.array([[Bomb()]], dtype=object)), "unreadable"),
        (header((10**12, 10**9)), "unreadable"),
        (header((-2, -3)) + bytes(24), "unreadable"),
        (header((2, True)) + bytes(8), "unreadable"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "unreadable"),
        (b"\x93NUMPY\x09\x00" + npy(np.ones((2, 3)))[8:], "unreadable"),
        (npy(np.ones(3, np.float32)), "of another shape"),
        (npy(np.ones((2, 2, 2), np.float32)), "of another shape"),
    ],
)
def test_an_array_that_cannot_be_is_a_reason(data, reason, capsys):
    with pytest.raises(Broken) as caught:
        NeighborsReader().read(Files({"neighbors.npy": data}.get), None)
    assert caught.value.reason in (f"{reason} neighbors", f"neighbors {reason}")
    assert "run" not in capsys.readouterr().out


def test_an_array_that_is_missing_or_has_one_axis():
    with pytest.raises(Broken, match="no image_embedding"):
        ImageEmbeddingReader().read(Files({}.get), None)
    one = ImageEmbeddingReader().read(Files({"embedding.npy": npy(np.arange(3.0))}.get), None)
    assert one.tolist() == [0, 1, 2]
    assert decode_array(npy(np.arange(3.0))).dtype == np.float32


def test_samples_of_one_batch_have_one_shape(tmp_path):
    entries = [
        (f"{n}.{e}", d) for n in range(2) for e, d in (("png", level(n)), ("embedding.npy", npy(np.ones(3 + n))))
    ]
    train = write_tar(tmp_path / "a.tar", entries)
    data = captioned(tmp_path, train=train, val=train, fields=["image_embedding"])
    with pytest.raises(
        ValueError, match=r"image_embedding has other shapes in other samples of one batch: \(3,\), \(4,\)"
    ):
        data.val_set.fields_of([0, 1])


def test_images_of_small_buckets_are_named(tmp_path, caplog):
    samples = [sample(f"{n:03d}", number=n, size=(32, 8) if n < 3 else (8, 8), txt=b"x") for n in range(20)]
    write_shards(samples, tmp_path, "train", samples_per_shard=20)
    pattern = f"{tmp_path}/train-*.tar"
    data = captioned(tmp_path, train=pattern, val=pattern, buckets={"multiple": 4, "max_ratio": 4.0})
    data.set_batch(3, 1, 1)
    assert "never trained on" not in caplog.text
    data.set_batch(4, 1, 1)
    assert "3 of 20 training images are in buckets with fewer images than the 4 of a step" in caplog.text
    assert "4 x 16 (3); use a smaller batch size" in caplog.text
    seen = {key for batch in read_all(data, 3) for key in batch.key}
    assert seen == {f"{number:03d}" for number in range(3, 20)}, "all others are"


def test_latents_held_in_memory_are_those_of_training_alone(tmp_path):
    """Also where both splits have samples of the same keys, and shards of the same name in other folders."""
    for split, shift in (("a", 0), ("b", 100)):
        write_shards(
            [sample(f"{n}", number=n + shift, txt=b"x") for n in range(6)], tmp_path / split, "x", samples_per_shard=6
        )
    data = captioned(tmp_path, train=f"{tmp_path}/a/*.tar", val=f"{tmp_path}/b/*.tar", cache_latents=True)
    seen = []

    def encode(image):
        seen.append(to_levels(image)[:, 0, 0, 0])
        return image[:, :2, ::4, ::4]

    data.cache_latents(encode, batch_size=4)
    assert torch.cat(seen).tolist() == list(range(6))
    data.set_batch(6, 1, 1)
    (batch,) = read_all(data)
    assert sorted(to_levels(batch.fields["moments"])[:, 0, 0, 0].tolist()) == list(range(6))
    (measured,) = data.val_dataloader()
    assert "moments" not in measured.fields
    assert to_levels(measured.fields["image"])[:, 0, 0, 0].tolist() == list(range(100, 106))
    again = captioned(tmp_path, train=f"{tmp_path}/b/*.tar", val=f"{tmp_path}/a/*.tar", cache_latents=True)
    again.cache_latents(encode, batch_size=4)
    assert to_levels(torch.stack(again.moments.fields["moments"]))[:, 0, 0, 0].tolist() == list(range(100, 106))


def test_indexes_and_copies_of_shards_of_one_name_never_mix(tmp_path):
    """They are named by the whole path or URL, so that training and validation never read each other's."""
    folders = [tmp_path / split for split in "ab"]
    for folder in folders:
        write_shards([sample(folder.name, txt=b"x")], folder, "x", samples_per_shard=1)
    paths = [str(folder / "x-000000.tar") for folder in folders]
    for folder in folders:
        (folder / ".x-000000.tar.index").mkdir()  # so that the index cannot lie beside the shard
    copies = copied([f"pipe:cat {path}" for path in paths], tmp_path / "cache")
    assert len(set(copies)) == 2
    for names in (paths, copies):
        summaries = index_shards(names, tmp_path / "cache")
        assert [DatasetIndex([summary])[0].key for summary in summaries] == ["a", "b"]
        assert len({summary.file for summary in summaries}) == 2


def test_tags_are_shuffled_and_left_out_anew_in_each_epoch(tmp_path):
    tags = [f"tag {n}" for n in range(6)]
    samples = [sample(f"{n}", number=n, txt=", ".join(tags).encode()) for n in range(4)]
    write_shards(samples, tmp_path, "train", samples_per_shard=4)
    pattern = f"{tmp_path}/train-*.tar"

    def data(**caption):
        return captioned(tmp_path, train=pattern, val=pattern, caption=CaptionChoice(**caption), seed=1)

    def captions(data, epochs=40):
        return [
            data.train_set[SampleRef(epoch, n)].fields["caption"].split(", ")
            for epoch in range(epochs)
            for n in range(4)
        ]

    assert all(found == tags for found in captions(data(), 2))
    shuffled = captions(data(shuffle_tags=True, keep_tags=2))
    assert shuffled == captions(data(shuffle_tags=True, keep_tags=2)), "a run that repeats sees the same"
    assert all(found[:2] == tags[:2] and sorted(found) == tags for found in shuffled)
    assert len({tuple(found) for found in shuffled}) > 20
    dropped = captions(data(drop_tags=0.25, keep_tags=1))
    assert all(found[0] == tags[0] and found == [tag for tag in tags if tag in found] for found in dropped)
    assert np.mean([len(found) - 1 for found in dropped]) / 5 == pytest.approx(0.75, abs=0.06)
    assert {len(found) for found in captions(data(drop_tags=1.0), 5)} == {1}, "a caption never becomes empty"
    both = data(shuffle_tags=True, drop_tags=0.5)
    assert [item["caption"][0].split(", ") for _, item in both.samples(["caption"], 4)] == [tags] * 4
    assert both.val_set[SampleRef(0, 0)].fields["caption"].split(", ") == tags, "validation sees captions as they are"
    held = captioned(tmp_path, train=pattern, val=pattern, caption=both.caption, seed=1, cache_latents=True)
    held.cache_latents(lambda image: image[:, :2], batch_size=4)
    assert [held.moments[SampleRef(e, 2)].fields["caption"] for e in range(5)] == [
        both.train_set[SampleRef(e, 2)].fields["caption"] for e in range(5)
    ]
    several = CaptionChoice({"alts": 1}, shuffle_tags=True)
    record = json.dumps({"alts": ["a, b", "c, d"]}).encode()
    drawn = {several(None, record, lambda seed=seed: random.Random(seed)) for seed in range(40)}
    assert drawn == {"a, b", "b, a", "c, d", "d, c"}
    for wrong in ({"shuffle_tags": 1}, {"keep_tags": -1}, {"drop_tags": 2.0}):
        with pytest.raises(ValueError, match=f"data.caption.{next(iter(wrong))}="):
            CaptionChoice(**wrong)


def test_beside_latents_masks_are_drawn_and_what_needs_images_is_refused(tmp_path, shards):
    facts = {"autoencoder": "x", "size": "32", "flip": "false", "dtype": "float32", "text": ""}
    tensors = {"moments": torch.zeros(4, 8, 8), "geometry": torch.tensor([48, 40, 0, 0, 32, 32])}
    samples = [
        {"__key__": f"{number:04d}", "safetensors": pack_latent(tensors, facts), "txt": b"a, b, c"}
        for number in range(6)
    ]
    write_shards(samples, tmp_path / "plain", "train", samples_per_shard=6)
    plain = f"{tmp_path}/plain/train-*.tar"
    data = opened(shards, tmp_path, train=plain, fields=["mask", "caption"], caption=CaptionChoice(shuffle_tags=True))
    pictures = opened(shards, tmp_path)
    for number in range(1, 6):
        drawn, expected = data.train_set[SampleRef(4, number)], pictures.train_set[SampleRef(4, number)]
        assert drawn.key == expected.key
        assert torch.equal(drawn.fields["mask"], expected.fields["mask"]), "the same as beside the image"
        assert set(drawn.fields) == {"mask", "caption", "moments", "geometry"}
    with pytest.raises(ValueError, match="low_resolution is computed from images, and these are latents"):
        opened(shards, tmp_path, train=plain)
