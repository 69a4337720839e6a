import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from ldm.data.datamodule import CaptionedImages, collate
from ldm.data.icons import Drawing, Icons, choose_icons, split_drawings
from ldm.data.shards import find_shards, index_shards, write_shards
from ldm.data.stream import BatchStream, Draw, Pass, ShardDataset
from ldm.data.transforms import CaptionChoice, ImageTransform
from ldm.picture import to_levels

COLORS = {"red": "#ff0000", "blue": "#0000ff", "green": "#00ff00"}
BACKGROUNDS = {"white": "#ffffff", "black": "#000000"}


def icons(folder, **options):
    settings = {
        "count": 5,
        "colors": COLORS,
        "backgrounds": BACKGROUNDS,
        "side": 16,
        "samples_per_shard": 10,
        "val_share": 0.2,
    }
    return Icons(folder, **{**settings, **options})


def encoded(picture, form="png"):
    data = io.BytesIO()
    picture.save(data, format=form)
    return data.getvalue()


def sample(key, *, side=8, form="png", **files):
    return {
        "__key__": key,
        form: encoded(Image.new("RGB", (side, side), "red"), {"jpg": "jpeg"}.get(form, form)),
        **files,
    }


def test_icons_are_the_same_bytes_every_time(tmp_path):
    first, second = (icons(tmp_path / name).write() for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    before = (first / names[0]).stat().st_mtime_ns
    icons(tmp_path / "a").write()
    assert (first / names[0]).stat().st_mtime_ns == before, "what is there is not written again"
    assert icons(tmp_path / "a", side=32).folder != first


def test_icons_hold_out_combinations_but_no_part(tmp_path):
    source = icons(tmp_path)
    train, val = set(source.train), set(source.val)
    assert len(val) == round(0.2 * 30)
    assert not train & val
    for field in range(3):
        assert {d[field] for d in val} <= {d[field] for d in train}
        assert {d[field] for d in train} == set((source.icons, source.colors, source.backgrounds)[field])
    pairs = {(d.icon, d.color) for d in train}
    assert {(d.icon, d.color) for d in val} <= pairs


def test_icons_shards_hold_what_is_drawn(tmp_path):
    source = icons(tmp_path)
    data = CaptionedImages(side=16, source=source)
    assert (len(data.train_images), len(data.val_images)) == (24, 6)
    for number, drawing in enumerate(source.val):
        batch = data.val_images[Draw(0, number)]
        assert batch.caption == [drawing.caption]
        assert torch.equal(batch.image, source.images([drawing]))
    with tarfile.open(source.folder / "val-000000.tar") as archive:
        record = json.load(archive.extractfile("val-000000.json"))
        assert record == {"caption": source.val[0].caption, **source.val[0]._asdict()}
        assert all(member.mtime == 0 for member in archive.getmembers())


def test_captions_read_as_english():
    assert Drawing("heart", "red", "white").caption == "a red heart on a white background"
    assert Drawing("owl", "orange", "white").caption == "an orange owl on a white background"


def test_icons_refuse_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="count=5000 icons asked for; there are 1 to 984"):
        choose_icons(5000)
    with pytest.raises(ValueError, match="invisible"):
        icons(tmp_path, backgrounds={"crimson": "#FF0000"})
    with pytest.raises(ValueError, match="nothing can be held out"):
        split_drawings([Drawing("heart", "red", "white")], 0.5)


@pytest.mark.parametrize("form", ["jpg", "jpeg", "png", "webp"])
def test_reads_any_format_and_caption_in_txt_or_json(tmp_path, form):
    record = json.dumps({"caption": "from json", "alt": "other"}).encode()
    samples = [sample("a", form=form, txt="  vom Text: häßlich \n".encode()), sample("b", form=form, json=record)]
    write_shards(samples, tmp_path, "x", samples_per_shard=5)
    index = index_shards(find_shards(str(tmp_path / "x-*.tar")))
    plain = ShardDataset(index, ImageTransform(8), CaptionChoice())
    assert [plain.caption_of(i) for i in range(2)] == ["vom Text: häßlich", "from json"]
    chosen = ShardDataset(index, ImageTransform(8), CaptionChoice("alt"))
    assert chosen.caption_of(1) == "other"
    with pytest.raises(ValueError, match=r"sample 'a'.*has no caption.*data.caption.field"):
        chosen.caption_of(0)
    red = plain[Draw(0, 0)].image
    assert red.shape == (1, 3, 8, 8)
    torch.testing.assert_close(red.mean((0, 2, 3)), torch.tensor([1.0, -1.0, -1.0]), atol=0.05, rtol=0)


def test_patterns(tmp_path):
    write_shards([sample(f"{i}", txt=b"x") for i in range(6)], tmp_path, "s", samples_per_shard=2)
    braces = find_shards(str(tmp_path / "s-{000000..000002}.tar"))
    assert (
        braces
        == find_shards(str(tmp_path / "s-*.tar"))
        == find_shards([str(tmp_path / "s-000000.tar"), str(tmp_path / "s-00000[12].tar")])
    )
    with pytest.raises(FileNotFoundError, match=r"s-000003.tar.*1 of 4 files"):
        find_shards(str(tmp_path / "s-{000000..000003}.tar"))


def test_samples_without_caption_or_image_are_errors_before_training(tmp_path):
    write_shards([sample("ok", txt=b"x"), sample("mute")], tmp_path, "c", samples_per_shard=9)
    with pytest.raises(ValueError, match=r"'mute'.*has no caption; got \['png'\]"):
        index_shards(find_shards(str(tmp_path / "c-*.tar")))
    write_shards([{"__key__": "blind", "txt": b"x"}], tmp_path, "d", samples_per_shard=9)
    with pytest.raises(ValueError, match="'blind'.*has no image"):
        index_shards(find_shards(str(tmp_path / "d-*.tar")))
    (tmp_path / "e.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match="not a readable tar"):
        index_shards([str(tmp_path / "e.tar")])


@pytest.mark.parametrize("files", [{"txt": b" \n"}, {"json": b"{"}, {"json": b"[]"}, {"json": b'{"caption": ""}'}])
def test_empty_captions_are_errors_before_training(tmp_path, files):
    write_shards([sample("good", txt=b"x"), sample("empty", **files)], tmp_path, "g", samples_per_shard=9)
    data = CaptionedImages(side=8, train=str(tmp_path / "g-*.tar"), val=str(tmp_path / "g-*.tar"))
    with pytest.raises(ValueError, match="'empty' in .* has no caption"):
        data.check_captions()


def test_few_shards_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.stream.OPEN_SHARDS", 2)
    write_shards([sample(f"{i}", txt=b"x") for i in range(6)], tmp_path, "h", samples_per_shard=1)
    dataset = ShardDataset(index_shards(find_shards(str(tmp_path / "h-*.tar"))), ImageTransform(8), CaptionChoice())
    for _ in range(2):
        assert [dataset[Draw(0, number)].key for number in range(6)] == [[str(number)] for number in range(6)]
        assert len(dataset._handles) == 2


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    write_shards([{"__key__": "broken", "png": b"123", "txt": b"x"}], tmp_path, "f", samples_per_shard=9)
    dataset = ShardDataset(index_shards(find_shards(str(tmp_path / "f-*.tar"))), ImageTransform(8), CaptionChoice())
    with pytest.raises(ValueError, match=r"sample 'broken' in .*f-000000.tar cannot be decoded"):
        dataset[Draw(0, 0)]


def striped():
    picture = Image.new("RGB", (40, 20))
    for x in range(40):
        for y in range(20):
            picture.putpixel((x, y), (6 * x, 0, 12 * y))
    return encoded(picture)


def test_transforms():
    import random

    chance = random.Random(0)
    center = to_levels(ImageTransform(20)(striped(), chance))
    assert center.shape == (3, 20, 20)
    assert center[0, 0].tolist() == [6 * x for x in range(10, 30)]
    seen = {int(to_levels(ImageTransform(20, crop="random")(striped(), chance))[0, 0, 0]) // 6 for _ in range(300)}
    assert seen == set(range(21)), "every place is cropped"
    flips = [bool(to_levels(ImageTransform(20, flip=True)(striped(), chance))[0, 0, 0] == 6 * 29) for _ in range(300)]
    assert 100 < sum(flips) < 200
    assert ImageTransform(10)(striped(), chance).shape == (3, 10, 10)
    assert ImageTransform(64)(striped(), chance).shape == (3, 64, 64), "small images are enlarged"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_all_modes_become_rgb(mode):
    import random

    form = "tiff" if mode == "CMYK" else "png"
    assert ImageTransform(8)(encoded(Image.new(mode, (9, 8)), form), random.Random(0)).shape == (3, 8, 8)


def test_transparency_becomes_white():
    import random

    assert float(ImageTransform(8)(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), random.Random(0)).min()) == 1.0


def global_batches(world, batch, epochs, *, samples=53, seed=0, position=0):
    """Union over ranks of each global batch, in order."""
    streams = [
        BatchStream(samples, batch // world, rank=r, world=world, seed=seed, position=position) for r in range(world)
    ]
    result = []
    for _ in range(epochs):
        dealt = [list(stream) for stream in streams]
        assert len({len(d) for d in dealt}) == 1, "every rank makes the same number of steps"
        result += [sorted(draw for share in shares for draw in share) for shares in zip(*dealt, strict=True)]
    return result


def test_global_batches_do_not_depend_on_the_number_of_ranks():
    one = global_batches(1, 8, 3)
    assert one == global_batches(2, 8, 3) == global_batches(4, 8, 3)
    for epoch in range(3):
        draws = [d for batch in one[epoch * 6 : epoch * 6 + 6] for d in batch]
        assert len({d.number for d in draws}) == 48, "no sample twice in an epoch"
        assert {d.epoch for d in draws} == {epoch}


def test_order_is_a_function_of_seed_and_epoch():
    assert global_batches(1, 8, 2) == global_batches(1, 8, 2)
    assert global_batches(1, 8, 1) != global_batches(1, 8, 1, seed=1)
    first, second = (global_batches(1, 8, 2)[start : start + 6] for start in (0, 6))
    assert [[d.number for d in b] for b in first] != [[d.number for d in b] for b in second]


def test_a_stream_goes_on_where_it_stood():
    assert global_batches(2, 8, 3)[4:] == global_batches(2, 8, 1, position=4) + global_batches(2, 8, 2, position=6)


def test_too_little_data_for_a_batch_is_an_error():
    with pytest.raises(ValueError, match="5 samples do not fill one batch of 4 on each of 2 processes"):
        BatchStream(5, 4, world=2)


def test_a_pass_sees_every_sample_once():
    seen = [draw.number for rank in range(3) for batch in Pass(10, 2, rank=rank, world=3) for draw in batch]
    assert sorted(seen) == list(range(10))
    spread = [
        draw.number for rank in range(2) for batch in Pass(100, 2, rank=rank, world=2, limit=10) for draw in batch
    ]
    assert sorted(spread) == list(range(0, 100, 10))
    assert len(Pass(10, 2, rank=0, world=3)) == len(list(Pass(10, 2, rank=0, world=3))) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_batches_for_any_number_of_workers(tmp_path, workers):
    data = CaptionedImages(side=16, source=icons(tmp_path), crop="random", flip=True, workers=workers)
    data.set_batch(6, 1, 1)
    keys, images = [], []
    loader = data.train_dataloader()
    for _ in range(2):
        for batch in loader:
            keys.append(batch.key)
            images.append(batch.image)
    reference = CaptionedImages(side=16, source=icons(tmp_path), crop="random", flip=True)
    stream = BatchStream(24, 6)
    expected = [collate([reference.train_images[draw] for draw in draws]) for _ in range(2) for draws in stream]
    assert keys == [batch.key for batch in expected]
    assert all(torch.equal(a, b.image) for a, b in zip(images, expected, strict=True))


def test_cached_moments_take_the_place_of_images(tmp_path):
    data = CaptionedImages(side=16, source=icons(tmp_path), cache_latents=True)
    data.set_batch(6, 1, 1)
    images = {
        key: image for batch in data.train_dataloader() for key, image in zip(batch.key, batch.image, strict=True)
    }
    data.cache(lambda image: image[:, :2, ::4, ::4], batch_size=5)
    data.set_batch(6, 1, 1)
    for batch in data.train_dataloader():
        assert batch.image is None
        for key, moments in zip(batch.key, batch.moments, strict=True):
            assert torch.equal(moments, images[key][:2, ::4, ::4])
    with pytest.raises(ValueError, match="latents can be cached only"):
        CaptionedImages(side=16, source=icons(tmp_path), cache_latents=True, flip=True)


def test_a_batch_that_cannot_be_shared_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match="batch_size 6 is not a multiple of accumulate 2 times 2 processes; use a multiple of 4"
    ):
        CaptionedImages(side=16, source=icons(tmp_path)).set_batch(6, 2, 2)
