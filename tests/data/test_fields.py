"""Fields of a sample: read from its files, moved together with the image, and named where they are missing."""

import io
import json
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.data.bad_samples import missing_message
from ldm.data.datamodule import CaptionedImages
from ldm.data.decode import Broken
from ldm.data.fields.base import FieldReader, Files
from ldm.data.fields.boxes import BoxesReader
from ldm.data.fields.choose import choose_readers
from ldm.data.fields.label import LabelReader
from ldm.data.fields.maps import DepthReader, MaskReader, SegmentationReader
from ldm.data.fields.sample import SampleFields
from ldm.data.latents import pack_latent
from ldm.data.order.shuffle import SampleRef
from ldm.data.streaming import StreamedImages
from ldm.data.transforms import CaptionChoice, ImageTransform, LatentTransform, placement_of
from ldm.encode.encoder import LatentEncoder, encode
from tests.data.small_shards import captioned, encoded, level, read_all, write_tar

EVERYTHING = ["caption", "label", "boxes", "segmentation", "depth", "mask", "geometry"]
READERS = choose_readers(EVERYTHING, CaptionChoice())


def drawing(width=96, height=48):
    """A white rectangle on black, left of the middle and above it, so that it tells mirror images and crops apart."""
    levels = np.zeros((height, width), np.uint8)
    levels[height // 8 : height // 2, width * 5 // 24 : width * 5 // 8] = 255
    return levels


def box_of(mask):
    """The smallest box around what is true, in [0, 1]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


def files(levels, *, scale=1, depth=8, label=3):
    """The files of a sample, whose maps may be larger than its image."""
    large = np.kron(levels, np.ones((scale, scale), np.uint8))
    gray = Image.fromarray(large if depth == 8 else large.astype(np.uint16) * 257)
    record = {"boxes": [{"label": label, "box": box_of(levels > 0)}, {"label": 0, "box": [0.0, 0.0, 0.01, 0.01]}]}
    return {
        "png": encoded(Image.fromarray(levels).convert("RGB")),
        "txt": b"a box",
        "cls": b"%d" % label,
        "json": json.dumps(record).encode(),
        "seg.png": encoded(Image.fromarray((large > 0).astype(np.uint8) * 7)),
        "depth.png": encoded(gray),
        "mask.png": encoded(Image.fromarray(large)),
    }


def read(given, transform, rng=None, size=None):
    there = {ending: data for ending, data in given.items() if ending != "png"}
    rng = rng or random.Random(0)
    return SampleFields(transform, READERS).read(
        Files(there.get),
        lambda: given["png"],
        choose=None,
        rng=lambda: rng,
        computed=lambda name: random.Random(name),
        size=size,
    )


@pytest.mark.parametrize("size", [(48, 96), (48, 48), (24, 40), (96, 64)])
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_all_that_lies_on_an_image_moves_with_it(size, scale, crop):
    """Wherever the image is white, there are class 7, the mask, the depth 1 and the box; also when it is mirrored."""
    transform, given = (
        ImageTransform(size, crop=crop, flip=True),
        files(drawing(), scale=scale, depth=8 * min(scale, 2)),
    )
    rng, seen = random.Random(1), set()
    for _ in range(12):
        fields = read(given, transform, rng)
        white = torch.from_numpy(fields["image"][:, :, 0].astype(int))
        assert white.shape == fields["segmentation"].shape == fields["mask"].shape[1:] == size
        assert fields["depth"].shape == fields["mask"].shape == (1, *size)
        assert ((fields["segmentation"] == 7) == (white > 127)).float().mean() > 0.96
        assert set(fields["segmentation"].unique().tolist()) <= {0, 7}, "classes are not mixed"
        assert torch.equal(fields["mask"][0] > 0, fields["segmentation"] == 7)
        assert (fields["depth"][0] - (white / 127.5 - 1)).abs().mean() < 0.08
        boxes = fields["boxes"][fields["boxes"][:, 0] == 3]
        assert len(boxes) == bool((white > 127).any())
        for box in boxes:
            np.testing.assert_allclose(box[1:], box_of(white.numpy() > 127), atol=1.6 / min(size))
            seen.add((round(float(box[1]), 2), round(float(box[3]), 2)))
        assert fields["label"] == 3
        placement = placement_of(fields["geometry"], flipped=False)
        assert torch.equal(placement.geometry, fields["geometry"])
    assert len(seen) >= 2, "some are mirrored"


def test_what_lies_outside_of_the_crop_is_dropped_and_the_rest_is_clipped():
    image = np.zeros((40, 80), np.uint8)
    boxes = [
        {"label": 1, "box": [0.0, 0.0, 0.2, 1.0]},  # left of the crop
        {"label": 2, "box": [0.1, 0.5, 0.5, 1.0]},
        {"label": 4, "box": [0.9, 0.0, 1.0, 0.3]},  # right of it
    ]
    given = {**files(image + drawing(80, 40)), "json": json.dumps({"boxes": boxes}).encode()}
    placed = read(given, ImageTransform(40))["boxes"]
    torch.testing.assert_close(placed, torch.tensor([[2, 0.0, 0.5, 0.5, 1.0]]))
    mirrored = next(
        fields["boxes"]
        for seed in range(20)
        if (fields := read(given, ImageTransform(40, flip=True), random.Random(seed)))["boxes"][0, 1] > 0
    )
    torch.testing.assert_close(mirrored, torch.tensor([[2, 0.5, 0.5, 1.0, 1.0]]))


@pytest.mark.parametrize(
    ("reader", "ending", "data", "reason"),
    [
        (LabelReader(), "cls", None, "no label"),
        (LabelReader(), "cls", b"cat", "unreadable label"),
        (LabelReader(), "cls", b"9" * 30, "unreadable label"),
        (LabelReader(), "json", b'{"label": true}', "unreadable label"),
        (LabelReader(), "json", b'{"label": -1}', "unreadable label"),
        (BoxesReader(), "json", b"{}", "no boxes"),
        (BoxesReader(), "json", b'{"boxes": 3}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": 1}]}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": "cat", "box": [0, 0, 1, 1]}]}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": 1e400, "box": [0, 0, 1, 1]}]}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": 1, "box": [0, 0, NaN, 1]}]}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": 1, "box": [0.5, 0, 0.2, 1]}]}', "unreadable boxes"),
        (BoxesReader(), "json", b'{"boxes": [{"label": 1, "box": [10, 20, 30, 40]}]}', "unreadable boxes"),
        (SegmentationReader(), "seg.png", None, "no segmentation"),
        (SegmentationReader(), "seg.png", b"", "unreadable segmentation"),
        (SegmentationReader(), "seg.png", level(1, size=(96, 48)), "unreadable segmentation"),
        (SegmentationReader(), "seg.png", encoded(Image.new("L", (48, 48))), "segmentation of another shape than the image"),
        (SegmentationReader(), "seg.png", encoded(Image.effect_noise((96, 48), 9))[:900], "unreadable segmentation"),
        (DepthReader(), "depth.png", None, "no depth"),
        (DepthReader(), "depth.png", level(1, size=(96, 48)), "unreadable depth"),
        (MaskReader(), "mask.png", b"GIF89a", "unreadable mask"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_a_reason(reader, ending, data, reason):
    there = {ending: data} if data is not None else {}
    fields = SampleFields(ImageTransform(24), [reader])
    with pytest.raises(Broken) as caught:
        fields.read(
            Files(there.get),
            lambda: level(9, size=(96, 48)),
            choose=None,
            rng=lambda: random.Random(0),
            computed=lambda name: random.Random(name),
        )
    assert caught.value.reason == reason


def test_an_empty_list_of_boxes_is_one_and_16_bits_hold_more_classes():
    assert BoxesReader().read(Files({"json": b'{"boxes": []}'}.get), None).shape == (0, 5)
    palette = Image.fromarray((drawing() > 0).astype(np.uint8) * 9).convert("P")
    many = Image.fromarray((drawing() > 0).astype(np.uint16) * 3000)
    for picture, highest in ((many, 3000), (Image.fromarray(drawing() > 0), 1)):
        given = {**files(drawing()), "seg.png": encoded(picture)}
        given["mask.png"] = encoded(Image.fromarray(drawing().astype(np.uint16) * 128))  # white is 32640 of 65535
        assert not read(given, ImageTransform(48))["mask"].any()
        assert int(read(given, ImageTransform(48))["segmentation"].max()) == highest
    indices = np.asarray(palette)
    given = {**files(drawing()), "seg.png": encoded(palette)}
    assert int(read(given, ImageTransform((48, 96)))["segmentation"].max()) == indices.max()


@pytest.fixture
def shards(tmp_path):
    """Twenty samples, of which the third has no segmentation and the fourth no caption."""
    entries = []
    for number in range(20):
        of_sample = files(drawing(40 + number, 40), label=number)
        if number == 2:
            del of_sample["seg.png"]
        if number == 3:
            del of_sample["txt"]
        entries += [(f"{number:04d}.{ending}", data) for ending, data in of_sample.items()]
    return write_tar(tmp_path / "all.tar", entries)


def test_what_the_model_needs_is_read_and_nothing_else(tmp_path, shards, caplog):
    data = CaptionedImages(train=shards, val=shards, size=[24, 16], cache=tmp_path, max_broken=0.2, seed=1)
    data.need(["label", "segmentation"])
    data.open()
    assert "40 files are not read: beside an image" in caplog.text, "boxes are in the .json"
    data.check_fields()
    assert "1 of 20 samples looked at have no segmentation, the first is '0002' in" in caplog.text
    data.set_batch(5, 1, 1)
    batches = read_all(data)
    assert all(set(batch.fields) == {"image", "label", "segmentation", "geometry"} for batch in batches)
    assert [(skip.key, skip.reason) for batch in batches for skip in batch.skipped] == [("0002", "no segmentation")]
    assert batches[0].fields["label"].dtype == batches[0].fields["segmentation"].dtype == torch.int64
    assert all([int(key) for key in batch.key] == batch.fields["label"].tolist() for batch in batches)
    given = data.val_set.fields_of(range(5))
    assert given["label"].tolist()[:2] == [0, 1]
    item = data.val_set[SampleRef(0, 4)]
    assert torch.equal(given["segmentation"][4], item.fields["segmentation"]), "also without decoding the image"
    data.need(["caption", "boxes", "depth", "mask", "geometry"])
    data.open()
    data.set_batch(5, 1, 1)
    (*_, batch) = read_all(data)
    assert batch.fields["boxes"].shape[::2] == (5, 5)
    assert [skip.reason for batch in read_all(data) for skip in batch.skipped] == ["no caption"]
    strict = CaptionedImages(train=shards, val=shards, size=24, cache=tmp_path, fields=["segmentation"])
    with pytest.raises(
        ValueError, match=r"1 of 20 samples looked at have no segmentation.*; add .seg.png files, or raise"
    ):
        strict.check_fields()
    mixed = [skip._replace(reason="unreadable boxes", detail="got 3") for skip in strict.broken(20)[0]]
    with pytest.raises(
        ValueError, match=r"have unreadable boxes, the first is '0002' in .* \(got 3\); mend them, or raise"
    ):
        missing_message(mixed, 20, [BoxesReader()], most=0.0)
    with pytest.raises(ValueError, match=r"data.fields is a list of names, like .*; got 'label'"):
        CaptionedImages(train=shards, val=shards, size=24, cache=tmp_path, fields="label")
    with pytest.raises(ValueError, match="there is no field 'layout'; choose from image, .*segmentation"):
        CaptionedImages(train=shards, val=shards, size=24, cache=tmp_path, fields=["layout"])


def test_a_stream_gives_the_same_fields(tmp_path, shards):
    options = {"train": shards, "val": shards, "size": 24, "cache": tmp_path, "max_broken": 1.0, "fields": EVERYTHING}
    indexed, streamed = CaptionedImages(**options), StreamedImages(**options, crop="center", buffer=1)
    expected = {}
    for number in range(20):
        item = indexed.train_set[SampleRef(0, number)]
        expected[item.key] = item.fields
    streamed.open()
    streamed.set_batch(4, 1, 1)
    stream = iter(streamed.train_dataloader())
    for batch in (next(stream) for _ in range(8)):
        for row, key in enumerate(batch.key):
            for name in ("label", "caption", "segmentation", "depth", "mask", "geometry"):
                got, wanted = batch.fields[name][row], expected[key][name]
                assert torch.equal(got, wanted) if isinstance(wanted, torch.Tensor) else got == wanted
            (boxes,) = (batch.fields["boxes"][row],)
            assert torch.equal(boxes[boxes[:, 0] >= 0], expected[key]["boxes"])
    broken, seen = streamed.broken(100)
    assert (sorted(skip.reason for skip in broken), seen) == (["no caption", "no segmentation"], 20)
    found = [(key, fields["label"].tolist()) for key, fields in streamed.samples(["label"], 3)]
    assert [key for key, _ in found] == ["0000", "0001", "0002"], "also one that lacks what was not asked for"
    assert found[:2] == [(key, [expected[key]["label"]]) for key in ("0000", "0001")]


class WordCount(FieldReader):
    """A reader of somebody else's."""

    name, endings, advice = "words", ("txt",), "add .txt files"

    def read(self, files, rng):
        if files.get("txt") is None:
            raise Broken("no words")
        return len(files.get("txt").split())

    def varies(self, files):
        return False


def test_a_reader_of_ones_own(tmp_path, shards):
    data = captioned(tmp_path, train=shards, val=shards, fields=[WordCount(), "label"], max_broken=1.0)
    assert data.train_set.fields_of([0, 1]).keys() == {"words", "label"}
    assert data.train_set.fields_of([0])["words"].tolist() == [2]


def test_fields_survive_encoding_and_lie_where_the_latents_do(tmp_path, shards):
    """Also beside mirrored latents."""
    torch.manual_seed(0)
    autoencoder = ConvAutoencoder(
        KLRegularizer(), latent_channels=2, channels=8, channel_mult=[1, 1], blocks=1, groups=4
    ).eval()
    options = {"val": shards, "size": [24, 16], "max_broken": 1.0, "flip": True, "seed": 5, "fields": EVERYTHING}
    still = captioned(tmp_path, train=shards, **{**options, "flip": False})
    encode(still, LatentEncoder(autoencoder, flip=True, dtype="float32"), tmp_path / "out", batch_size=4)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        assert {"0000.cls", "0000.seg.png", "0000.json", "0000.txt"} <= set(archive.getnames())
    latents = captioned(tmp_path, train=f"{tmp_path}/out/*.tar", **options)
    originals = {
        item.key: item.fields for item in map(still.train_set.__getitem__, (SampleRef(0, n) for n in range(20)))
    }
    assert len(latents.train_set) == 18
    mirrored = 0
    for number in range(18):
        for epoch in range(3):
            item = latents.train_set[SampleRef(epoch, number)]
            plain = originals[item.key]
            flipped = not torch.equal(item.fields["segmentation"], plain["segmentation"])
            mirrored += flipped
            for name in ("segmentation", "depth", "mask"):
                assert torch.equal(item.fields[name], plain[name].flip(-1) if flipped else plain[name])
            image = torch.from_numpy(plain["image"].copy()).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                expected = autoencoder.encode(image.flip(-1) if flipped else image).moments[0]
            torch.testing.assert_close(item.fields["moments"], expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(item.fields["geometry"], plain["geometry"])
            assert item.fields["label"] == int(item.key)
    assert 15 < mirrored < 40


@pytest.mark.parametrize(
    "geometry",
    [None, torch.ones(5), torch.zeros(6), torch.tensor([8, 8, -1, 0, 8, 8]), torch.tensor([8, 8, 0, 0, 10**9, 8]),
     torch.tensor([8.0, torch.nan, 0.0, 0.0, 8.0, 8.0])],
)  # fmt: skip
def test_a_latent_with_an_impossible_geometry_is_broken(geometry):
    tensors = {"moments": torch.zeros(4, 2, 2), **({} if geometry is None else {"geometry": geometry})}
    for use in (lambda data: LatentTransform()(data, random.Random(0)), LatentTransform().placement):
        with pytest.raises(Broken, match="unreadable latent"):
            use(pack_latent(tensors, {}))


def test_with_latents_in_memory_captions_are_still_chosen_anew(tmp_path):
    record = json.dumps({"alts": ["x", "y", "z"]}).encode()
    entries = [(f"{n}.{ending}", data) for n in range(6) for ending, data in (("png", level(n)), ("json", record))]
    entries[2] = ("1.png", io.BytesIO(level(1)).read()[:60])  # broken: another stands in its place
    train = write_tar(tmp_path / "a.tar", entries)
    options = {"train": train, "val": train, "caption": CaptionChoice({"alts": 1}), "max_broken": 1.0, "seed": 3}
    pictures, held = captioned(tmp_path, **options), captioned(tmp_path, **options, cache_latents=True)
    held.cache_latents(lambda image: image[:, :2, ::4, ::4], batch_size=4)
    assert held.moments is not None
    seen = {}
    for epoch in range(8):
        for number in range(6):
            expected, got = pictures.train_set[SampleRef(0, number)], held.moments[SampleRef(epoch, number)]
            assert got.key == expected.key, "the substitute of the first epoch"
            seen.setdefault(got.key, set()).add(got.fields["caption"])
            assert set(got.fields) == {"caption", "geometry", "moments"}
    assert max(map(len, seen.values())) == 3
    for number in (0, 2, 5):
        for epoch in range(3):
            assert (
                held.moments[SampleRef(epoch, number)].fields["caption"]
                == pictures.train_set[SampleRef(epoch, number)].fields["caption"]
            )
