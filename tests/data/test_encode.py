"""Cached latents: training on them is training on the images."""

import os
import shlex

import pytest
import torch
from hydra.errors import InstantiationException

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.identity import CopyAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.autoencoder.vq import VQRegularizer
from ldm.checkpoint import save
from ldm.config import build, compose
from ldm.data.dataset import finish
from ldm.data.decode import Broken
from ldm.data.latents import pack_latent, read_encoding, unpack_latent
from ldm.data.rewriting import typed_names
from ldm.data.shards.names import name_shards, write_shards
from ldm.encode.encoder import LatentEncoder, encode, output_folder
from ldm.encode.program import main
from tests.cases import mostly_slow
from tests.data.small_shards import captioned, level, numbered, opened, read_all, sample, write_tar


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return ConvAutoencoder(
        KLRegularizer(), latent_channels=2, channels=8, channel_mult=[1, 1], blocks=1, groups=4
    ).eval()


@pytest.fixture
def images(tmp_path):
    return {"train": numbered(tmp_path, [7, 5, 0, 9], size=(12, 10)), "val": numbered(tmp_path, [4], split="val")}


def encoded_to(out, images, autoencoder, **options):
    data = captioned(out.parent, **images)
    settings = {"flip": True, "dtype": "float32", **options}
    return encode(data, LatentEncoder(autoencoder, **settings), out, batch_size=4)


def test_the_bytes_of_a_sample():
    moments = torch.randn(4, 2, 2)
    data = pack_latent({"moments": moments, "geometry": torch.zeros(6)}, {"autoencoder": "abc", "width": "12"})
    assert torch.equal(unpack_latent(data)["moments"], moments)
    assert read_encoding(data[:2000]) == {"autoencoder": "abc", "width": "12"}
    assert read_encoding(level(1)) is None
    for damaged in (data[:-1], data[:5], b""):
        with pytest.raises(Broken, match="unreadable latent"):
            unpack_latent(damaged)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_draws_give_the_same_moments(tmp_path, images, autoencoder, workers):
    """Keys, captions, flips and geometry are those of training on images; the moments are those of its images."""
    done = encoded_to(tmp_path / "latents", images, autoencoder)
    assert done["samples"] == 21
    pictures = captioned(tmp_path, **images, flip=True, seed=5)
    latents = captioned(
        tmp_path, **{**images, "train": f"{tmp_path}/latents/*.tar"}, flip=True, seed=5, workers=workers
    )
    for data in (pictures, latents):
        data.set_batch(4, 1, 1)
    for of_image, of_latent in zip(read_all(pictures, 3), read_all(latents, 3), strict=True):
        assert of_image.key == of_latent.key
        assert of_image.fields["caption"] == of_latent.fields["caption"]
        assert torch.equal(of_image.fields["geometry"], of_latent.fields["geometry"])
        with torch.no_grad():
            expected = autoencoder.encode(of_image.fields["image"]).moments
        torch.testing.assert_close(of_latent.fields["moments"], expected, atol=1e-5, rtol=1e-5)
    assert latents.encoding["autoencoder"] == autoencoder.encoder_hash
    assert latents.train_set.index.column("width")[0] == 12
    assert latents.train_set.index.column("aesthetic")[3] == 0.3, "numbers of the .json are there, too"


@pytest.mark.parametrize("kind", ["before", "after", "identity"])
def test_latents_of_other_regularisers_are_those_of_the_images(tmp_path, images, kind):
    """Before and after quantisation, and of the autoencoder that copies: there is one number a value, without variance."""
    torch.manual_seed(0)
    if kind == "identity":
        network = CopyAutoencoder()
    else:
        regularizer = VQRegularizer(16, 2, quantized_latents=kind == "after")
        network = ConvAutoencoder(
            regularizer, latent_channels=2, channels=8, channel_mult=[1, 1], blocks=1, groups=4
        ).eval()
    encoded_to(tmp_path / "latents", images, network)
    latents = captioned(tmp_path, **{**images, "train": f"{tmp_path}/latents/*.tar"}, flip=True, seed=5)
    pictures = captioned(tmp_path, **images, flip=True, seed=5)
    for data in (pictures, latents):
        data.set_batch(4, 1, 1)
    for of_image, of_latent in zip(read_all(pictures), read_all(latents), strict=True):
        assert len(of_latent.fields["moments"][0]) == network.latent_channels
        expected = network.latent(of_image)
        torch.testing.assert_close(network.latent(of_latent), expected, atol=1e-5, rtol=1e-5)
    assert latents.encoding["autoencoder"] == network.encoder_hash


def test_interrupted_encoding_goes_on(tmp_path, images, autoencoder):
    encoded_to(tmp_path / "whole", images, autoencoder)
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.tar"))
    assert names == [f"train-{shard:06d}.tar" for shard in range(4)]
    encoded_to(tmp_path / "parts", images, autoencoder)
    os.remove(tmp_path / "parts" / names[1])
    before = (tmp_path / "parts" / names[0]).stat().st_mtime_ns
    done = encoded_to(tmp_path / "parts", images, autoencoder)
    assert (done["shards written"], done["shards kept"], done["samples"]) == (1, 3, 5)
    assert (tmp_path / "parts" / names[0]).stat().st_mtime_ns == before
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(
        ValueError, match="was begun with other settings .facts.flip: true -> false.*choose another out="
    ):
        encoded_to(tmp_path / "parts", images, autoencoder, flip=False)


def test_processes_share_the_shards(tmp_path, images, autoencoder):
    data = captioned(tmp_path, **images)
    encoder = LatentEncoder(autoencoder, flip=False, dtype="float16")
    for rank in range(3):
        encode(data, encoder, tmp_path / "shared", batch_size=4, rank=rank, world=3)
    index = opened(f"{tmp_path}/shared/*.tar", tmp_path)
    assert [index[number].key for number in range(21)] == [f"{number:06d}" for number in range(21)]
    latents = captioned(tmp_path, **{**images, "train": f"{tmp_path}/shared/*.tar"})
    exact = autoencoder.encode(finish(data.train_set.exactly([0])[0]).fields["image"]).moments
    torch.testing.assert_close(latents.train_set.exactly([0])[0].fields["moments"], exact, atol=2e-3, rtol=2e-3)


def test_broken_images_are_left_out_and_counted(tmp_path, autoencoder):
    from PIL import Image

    from tests.data.small_shards import encoded

    files = [(f"{i}.{e}", d) for i in range(5) for e, d in (("png", level(i)), ("txt", b"x"))]
    half = encoded(Image.effect_noise((64, 64), 50))[:700]
    path = write_tar(tmp_path / "a.tar", [*files, ("half.png", half), ("half.txt", b"x")])
    data = captioned(tmp_path, train=path, val=path, max_broken=0.5)
    done = encode(data, LatentEncoder(autoencoder, flip=False, dtype="float32"), tmp_path / "out", batch_size=2)
    assert (done["samples"], done["unreadable image"]) == (5, 1)
    assert len(opened(f"{tmp_path}/out/*.tar", tmp_path)) == 5


def test_what_does_not_fit_is_refused(tmp_path, images, autoencoder):
    encoded_to(tmp_path / "latents", images, autoencoder, flip=False)
    settings = {**images, "train": f"{tmp_path}/latents/*.tar"}
    with pytest.raises(ValueError, match="no flipped twins; encode with flip=true"):
        captioned(tmp_path, **settings, flip=True)
    for options in ({"crop": "random"}, {"buckets": {"multiple": 8, "max_ratio": 2}}):
        with pytest.raises(ValueError, match="latents were cut when they were made"):
            captioned(tmp_path, **settings, **options)
    with pytest.raises(ValueError, match="latents already"):
        captioned(tmp_path, **settings, cache_latents=True)
    with pytest.raises(ValueError, match="made at size 8; set data.size=8"):
        captioned(tmp_path, **settings, size=16)
    with pytest.raises(ValueError, match="validation needs images"):
        captioned(tmp_path, train=images["train"], val=settings["train"])
    torch.manual_seed(1)
    other = ConvAutoencoder(
        KLRegularizer(), latent_channels=2, channels=8, channel_mult=[1, 1], blocks=1, groups=4
    ).eval()
    encoded_to(tmp_path / "others", images, other, flip=False)
    with pytest.raises(ValueError, match="were not made the same way"):
        captioned(tmp_path, **{**settings, "train": [settings["train"], f"{tmp_path}/others/*.tar"]})
    with pytest.raises(ValueError, match="dtype is one of float32, float16; got 'int8'"):
        LatentEncoder(autoencoder, flip=False, dtype="int8")


def test_the_hash_is_of_the_encoder_alone(autoencoder):
    before = autoencoder.encoder_hash
    with torch.no_grad():
        autoencoder.last_layer().add_(1.0)
        assert autoencoder.encoder_hash == before, "a decoder that was trained on keeps its latents"
        autoencoder.to_moments.bias.add_(1.0)
        assert autoencoder.encoder_hash != before
        autoencoder.to_moments.bias.sub_(1.0)
        autoencoder.last_layer().sub_(1.0)


def test_what_is_encoded_and_what_is_counted_is_all_that_is_there(tmp_path, autoencoder):
    """Also of the files that are no samples, and of those that a filter leaves out."""
    files = [
        (f"{i}.{e}", d) for i in range(5) for e, d in (("png", level(i)), ("json", b'{"caption": "x", "n": %d}' % i))
    ]
    odd = [
        ("0.normal.png", level(1)),
        ("mute.png", level(1)),
        ("lone.txt", b"x"),
        ("1.json", b'{"caption": "y", "n": 1}'),
    ]
    path = write_tar(tmp_path / "a.tar", files + odd)
    data = captioned(tmp_path, train=path, val=path, max_broken=1.0, filters=["n > 1"])
    done = encode(data, LatentEncoder(autoencoder, flip=False, dtype="float32"), tmp_path / "out", batch_size=2)
    assert done == {
        **{
            "shards written": 1,
            "shards kept": 0,
            "samples": 3,
            "left out by the filters": 2,
            "no caption": 1,
            "no image": 1,
        },
        **{
            "files beside an image, but nothing here asks for them": 1,
            "files replaced by a later file of the same name": 1,
        },
    }


def test_images_alone_are_encoded_where_no_captions_are_read(tmp_path, autoencoder):
    """As latents alone, which are samples where nothing but the latent is needed."""
    path = write_tar(tmp_path / "a.tar", [(f"{number}.png", level(number)) for number in range(5)])
    data = captioned(tmp_path, train=path, val=path, fields=[])
    done = encode(data, LatentEncoder(autoencoder, flip=False, dtype="float32"), tmp_path / "out", batch_size=2)
    assert (done["samples"], done["no caption"]) == (5, 0)
    latents = captioned(tmp_path, train=f"{tmp_path}/out/*.tar", val=path, fields=[])
    assert (len(latents.train_set), latents.encoding["autoencoder"]) == (5, autoencoder.encoder_hash)
    latents.set_batch(5, 1, 1)
    assert {key for batch in read_all(latents) for key in batch.key} == set("01234")
    with pytest.raises(ValueError, match="no samples in 1 shards .*: no caption"):
        captioned(tmp_path, train=f"{tmp_path}/out/*.tar", val=path)


def test_nothing_of_others_is_written_upon(tmp_path, images, autoencoder):
    for name in ("notes.md", "train-000000.tar"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")
        with pytest.raises(ValueError, match=rf"out=\S+mine holds what was not written by this program \({name}\)"):
            encoded_to(tmp_path / "mine", images, autoencoder)
        assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
        (tmp_path / "mine" / name).unlink()
    with output_folder(tmp_path / "mine").lock(), pytest.raises(ValueError, match="another process is writing into"):
        encoded_to(tmp_path / "mine", images, autoencoder)
    encoded_to(tmp_path / "mine", images, autoencoder)
    assert encoded_to(tmp_path / "mine", images, autoencoder)["shards kept"] == 4


@pytest.fixture
def ckpt(tmp_path):
    config = {
        "_target_": "ldm.autoencoder.convolutional.ConvAutoencoder",
        "regularizer": {"_target_": "ldm.autoencoder.kl.KLRegularizer"}, "latent_channels": 2, "channels": 8,
        "channel_mult": [1, 1], "blocks": 1, "groups": 4,
    }  # fmt: skip
    network = build(config)
    network.statistics_count.fill_(1)
    save(tmp_path / "it's" / "autoencoder.safetensors", network, config)
    return tmp_path / "it's" / "autoencoder.safetensors"


def options_of(ckpt, images, out, *more):
    return [f"autoencoder.ckpt={ckpt}", f"out={out}", "data.size=8", "data.workers=0", f"data.train={images['train']}",
            f"data.val={images['val']}", f"data.cache={ckpt.parents[1]}/cache", *more]  # fmt: skip


@pytest.mark.parametrize("out", mostly_slow(["./[2023] {a}", "./a,b*", "plain"], ["./[2023] {a}"]))
def test_the_next_command_can_betyped_names(tmp_path, monkeypatch, capsys, ckpt, images, out):
    monkeypatch.chdir(tmp_path)
    main(compose("encode", options_of(ckpt, images, out)))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert "experiment=txt2img_shards data=latents" in line
    config = compose("train", [*shlex.split(line)[3:], "name=x"]).data
    assert len(name_shards(config.train)) == 4
    assert len(name_shards(config.val)) == 1
    listed = typed_names([f"{tmp_path}/it's [1]{{}}.tar", "a,b.tar"])
    assert compose("train", ["experiment=txt2img_shards", f"data.val={listed}", "name=x"]).data.val == [
        f"{tmp_path}/it's [1]{{}}.tar", "a,b.tar",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("batch_size=0", "batch_size=0 cannot be; give a whole number, at least 1"),
        ("dtype=int8", "dtype=int8 cannot be; give one of float32, float16"),
        ("flip=1", "flip=1 cannot be"),
        ("seed=x", "seed=x cannot be"),
        ("data.workers=-1", "data.workers=-1 cannot be"),
        ("data.size=9", "size 9"),
        ("data.crop=random", "images that change cannot be encoded once"),
        ("data.train=nowhere.tar", "no shard at 'nowhere.tar'"),
    ],
)
def test_options_are_checked_before_anything_is_written(tmp_path, ckpt, images, option, said):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError, InstantiationException)) as caught:
        main(compose("encode", options_of(ckpt, images, tmp_path / "out", option)))
    assert said in f"{caught.value} {caught.value.__cause__}"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_next_command_is_of_what_samples_have(tmp_path, capsys, ckpt):
    images = {}
    for split in ("train", "val"):
        write_shards([sample(f"{number}", cls=b"3") for number in range(4)], tmp_path, split, samples_per_shard=4)
        images[split] = f"{tmp_path}/{split}*.tar"
    main(compose("encode", options_of(ckpt, images, tmp_path / "out")))
    assert "\nnext: python train.py experiment=cin256 data=latents data.train=" in capsys.readouterr().out
