"""Features of a vision encoder beside latents: aligning to them is aligning to those of the images."""

import random
import shlex
import tarfile

import pytest
import torch
from hydra.errors import InstantiationException
from PIL import Image

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.checkpoint import save
from ldm.config import build, compose
from ldm.data.decode import Broken
from ldm.data.latents import pack_latent
from ldm.data.shards.names import write_shards
from ldm.data.transforms import LatentTransform
from ldm.encode.encoder import LatentEncoder, encode, estimate
from ldm.encode.program import main
from ldm.pretrained.vision import VisionEncoder
from ldm.task.alignment import REPA
from tests.conftest import scramble
from tests.data.caching import small_autoencoder
from tests.data.small_shards import captioned, encoded, read_all
from tests.pretrained.test_vision import save_vision

FEATURES = "patch_features"


@pytest.fixture(scope="module")
def autoencoder():
    return small_autoencoder(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_vision(tmp_path_factory.mktemp("vision"), "dinov2")


@pytest.fixture
def shards(tmp_path):
    """Write shards of images of noise, which differ from their mirrored images, and return the options that name them."""
    rng = random.Random(0)
    for split, count in (("train", 9), ("val", 3)):
        pictures = [Image.frombytes("RGB", (8, 8), rng.randbytes(192)) for _ in range(count)]
        samples = [
            {"__key__": f"{split}-{number}", "png": encoded(picture), "txt": b"noise"}
            for number, picture in enumerate(pictures)
        ]
        write_shards(samples, tmp_path, split, samples_per_shard=5)
    return {"train": f"{tmp_path}/train-*.tar", "val": f"{tmp_path}/val-*.tar"}


def opened(folder, needed, **options):
    """Return a data module for a model that needs some fields."""
    data = captioned(folder, **options)
    data.need(needed)
    data.open()
    data.set_batch(4, 1, 1)
    return data


def written(folder, shards, autoencoder, vision, *, flip=True, out="latents"):
    """Encode the training shards with features, and return the new names."""
    encoder = LatentEncoder(autoencoder, flip=flip, dtype="float32", vision=vision)
    encode(captioned(folder, **shards), encoder, folder / out, batch_size=4)
    return {**shards, "train": f"{folder}/{out}/*.tar"}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("patches", [None, 2])
def test_the_loss_is_that_of_the_images(tmp_path, shards, autoencoder, folder, patches, flip):
    """Up to the rounding to float16; features are those of the image that was drawn, or of its mirrored image."""
    vision = VisionEncoder(str(folder), size=16, patches=patches)
    latents = written(tmp_path, shards, autoencoder, vision, flip=flip)
    torch.manual_seed(1)
    network = scramble(UNet(2, model_channels=8, channel_mult=(1, 2), attention_levels=(), heads=2, blocks=1, groups=4))
    alignment = REPA(network, vision)
    pictures, held = (opened(tmp_path, alignment.inputs, **names, flip=flip, seed=5) for names in (shards, latents))
    unlike = []
    for of_image, of_latent in zip(read_all(pictures, 3), read_all(held, 3), strict=True):
        assert of_image.key == of_latent.key
        assert FEATURES not in of_image.fields
        image, features = of_image.fields["image"], of_latent.fields[FEATURES]
        assert features.dtype == torch.float16
        assert features.shape == (len(image), 16, *[patches or 4] * 2)
        torch.testing.assert_close(features, vision(image).half(), atol=2e-3, rtol=2e-3)
        unlike.append((features - vision(image.flip(-1))).abs().amax((1, 2, 3)))
        losses = []
        for fields in (of_image.fields, of_latent.fields):
            network(torch.zeros(len(image), 2, 4, 4), torch.full((len(image),), 0.5), Condition())
            losses.append(alignment(fields, step=0))
        torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
    assert torch.cat(unlike).min() > 0.05, "images and mirrored images have other features"
    assert held.encoding["features"] == vision.features_hash


def test_features_are_read_where_they_are_needed(tmp_path, shards, autoencoder, folder):
    latents = written(tmp_path, shards, autoencoder, VisionEncoder(str(folder), size=16))
    without = written(tmp_path, shards, autoencoder, None, out="without")
    for names, needed, expected in (
        (latents, (FEATURES,), True),
        (latents, ("caption",), False),
        (without, (FEATURES,), False),
        (shards, (FEATURES,), False),
    ):
        (batch, *_) = read_all(opened(tmp_path, needed, **names))
        assert (FEATURES in batch.fields) == expected
    assert opened(tmp_path, (), **without).encoding["features"] == ""
    asked = opened(tmp_path, ("caption",), **latents, fields=["caption", FEATURES])
    assert FEATURES in read_all(asked)[0].fields
    with pytest.raises(ValueError, match="were not made the same way"):
        captioned(tmp_path, **{**shards, "train": [latents["train"], without["train"]]})


def test_going_on_with_another_encoder_is_refused(tmp_path, shards, autoencoder, folder):
    written(tmp_path, shards, autoencoder, VisionEncoder(str(folder), size=16))
    written(tmp_path, shards, autoencoder, VisionEncoder(str(folder), size=16))
    with pytest.raises(ValueError, match=r"begun with other settings \(facts.features: \w{16} -> \w{16}\)"):
        written(tmp_path, shards, autoencoder, VisionEncoder(str(folder), size=16, patches=2))


def test_a_latent_whose_features_cannot_be_used_is_broken():
    tensors = {
        "moments": torch.zeros(4, 2, 2),
        "flipped": torch.ones(4, 2, 2),
        "geometry": torch.tensor([8.0, 8, 0, 0, 8, 8]),
        "features": torch.zeros(5, 2, 2).half(),
        "flipped_features": torch.ones(5, 2, 2).half(),
    }
    transform = LatentTransform(flip=True, features=True)
    drawn = [transform(pack_latent(tensors, {}), random.Random(seed), None).fields for seed in range(8)]
    pairs = {(float(fields["moments"].mean()), float(fields[FEATURES].mean())) for fields in drawn}
    assert pairs == {(0.0, 0.0), (1.0, 1.0)}, "moments and features are of the same image"
    for change, reason in (
        ({"features": None}, "latent without features"),
        ({"features": torch.zeros(5, 2)}, "unreadable latent"),
        ({"features": torch.zeros(5, 2, 2, dtype=torch.long)}, "unreadable latent"),
    ):
        given = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        with pytest.raises(Broken) as caught:
            LatentTransform(features=True)(pack_latent(given, {}), random.Random(0), None)
        assert caught.value.reason == reason
        assert FEATURES not in LatentTransform()(pack_latent(given, {}), random.Random(0), None).fields


def test_features_that_float16_cannot_hold_are_refused(tmp_path, shards, autoencoder, folder):
    vision = VisionEncoder(str(folder), size=16)
    with torch.no_grad():
        vision.network.layernorm.weight.mul_(1e6)
    with pytest.raises(ValueError, match="not finite, or too large for float16"):
        written(tmp_path, shards, autoencoder, vision)


def test_the_estimate_has_the_features(tmp_path, shards, autoencoder, folder):
    """Of DINOv2-B they are 16 x 16 x 768 numbers of two bytes: 393 kB."""
    vision = VisionEncoder(str(folder), size=16)
    for flip in (False, True):
        found = estimate(
            captioned(tmp_path, **shards), LatentEncoder(autoencoder, flip=flip, dtype="float32", vision=vision)
        )
        assert found.feature_bytes == 16 * 4 * 4 * 2 * (1 + flip)
    sizes = {}
    for name, given in (("with", vision), ("without", None)):
        written(tmp_path, shards, autoencoder, given, out=name)
        with tarfile.open(tmp_path / name / "train-000000.tar") as archive:
            sizes[name] = [member.size for member in archive if member.name.endswith(".safetensors")]
    assert len(sizes["with"]) == 5
    for more, fewer in zip(sizes["with"], sizes["without"], strict=True):
        assert found.feature_bytes <= more - fewer < found.feature_bytes + 400, "two names more in the header"
    large = found._replace(images=1_000_000, looked_at=1_000_000, feature_bytes=16 * 16 * 768 * 2, image_bytes=32_000)
    assert str(large).startswith(
        "1,000,000 images, without tokens of captions: about 32.0 GB of latents and 393.2 GB of features, and"
    )


def test_the_next_command_chooses_the_same_encoder(tmp_path, shards, folder, capsys):
    config = {
        "_target_": "ldm.autoencoder.convolutional.ConvAutoencoder",
        "regularizer": {"_target_": "ldm.autoencoder.kl.KLRegularizer"}, "latent_channels": 2, "channels": 8,
        "channel_mult": [1, 1], "blocks": 1, "groups": 4,
    }  # fmt: skip
    network = build(config)
    network.statistics_count.fill_(1)
    save(tmp_path / "autoencoder.safetensors", network, config)
    options = [
        f"autoencoder.ckpt={tmp_path}/autoencoder.safetensors", f"out={tmp_path}/out", "data.size=8", "data.workers=0",
        f"data.train={shards['train']}", f"data.val={shards['val']}", f"data.cache={tmp_path}/cache", "alignment=repa",
        f"alignment.encoder.name={folder}", "alignment.encoder.size=16", "alignment.encoder.patches=2",
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InstantiationException) as caught:
        main(compose("encode", [*options, "alignment.encoder.patches=3"]))
    assert "patches=3 cannot be" in str(caught.value.__cause__)
    assert sorted(tmp_path.rglob("*")) == before
    main(compose("encode", options))
    text = capsys.readouterr().out
    assert "KB of latents and 1.2 KB of features" in text
    (line,) = (line for line in text.splitlines() if line.startswith("next: "))
    chosen = compose("train", [*shlex.split(line)[3:], "name=x"]).stage.diffusion.alignment.encoder
    assert (chosen.name, chosen.size, chosen.patches) == (str(folder), 16, 2)
