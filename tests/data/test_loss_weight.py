"""The field `loss_weight`: read from a picture beside the image, moved with it, and used by a model that asks for it."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Batch
from ldm.config import build, compose, resolved
from ldm.data.decode import Broken
from ldm.data.fields.base import Files
from ldm.data.fields.choose import choose_readers
from ldm.data.fields.loss_weight import LossWeightReader
from ldm.data.fields.sample import SampleFields
from ldm.data.transforms import CaptionChoice, ImageTransform
from ldm.task.diffusion import DiffusionTask
from tests.conftest import scramble
from tests.data.small_shards import encoded

LEVELS = np.zeros((24, 48), np.uint8)
LEVELS[:12, 8:20] = 255
LEVELS[12:, 30:40] = 51


def read(picture, transform, seed=0):
    given = {} if picture is None else {"weight.png": picture}
    image = encoded(Image.fromarray(LEVELS).convert("RGB"))
    (reader,) = choose_readers(["loss_weight"], CaptionChoice())
    rng = random.Random(seed)
    return SampleFields(transform, [reader]).read(Files(given.get), lambda: image, choose=None, rng=lambda: rng)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [8, 16])
def test_weights_lie_where_the_image_does(seed, bits):
    picture = LEVELS if bits == 8 else LEVELS.astype(np.uint16) * 257
    fields = read(encoded(Image.fromarray(picture)), ImageTransform(24, crop="random", flip=True), seed)
    white = torch.from_numpy(fields["image"][:, :, 0].astype(np.float32) / 255)
    assert fields["loss_weight"].shape == (1, 24, 24)
    torch.testing.assert_close(fields["loss_weight"][0], white, atol=0.01, rtol=0)
    assert fields["loss_weight"].max() > 0.19


def test_a_picture_of_two_colours_and_one_of_another_size():
    two = encoded(Image.fromarray(LEVELS > 0))
    assert read(two, ImageTransform((24, 48)))["loss_weight"].unique().tolist() == [0.0, 1.0]
    large = encoded(Image.fromarray(LEVELS).resize((96, 48), Image.Resampling.NEAREST))
    torch.testing.assert_close(
        read(large, ImageTransform((24, 48)))["loss_weight"][0],
        torch.from_numpy(LEVELS / 255).float(),
        atol=0.3,
        rtol=0,
    )


def test_without_a_picture_every_pixel_counts_and_a_damaged_one_is_a_reason():
    assert torch.equal(read(None, ImageTransform(16))["loss_weight"], torch.ones(1, 16, 16))
    with pytest.raises(Broken) as caught:
        read(b"GIF89a", ImageTransform(16))
    assert caught.value.reason == "unreadable loss_weight"
    with pytest.raises(Broken) as caught:
        read(encoded(Image.new("L", (9, 9))), ImageTransform(16))
    assert caught.value.reason == "loss_weight of another shape than the image"
    assert not LossWeightReader().varies(Files({}.get))


def test_a_model_that_asks_for_weights_needs_the_field_and_uses_it():
    config = compose("train", ["experiment=txt2img", "debug=tiny", "model.loss.pixel_weights=true"])
    model = build(resolved(config.model))
    task = DiffusionTask(model, optimizer=torch.optim.AdamW, scheduler=torch.optim.lr_scheduler.ConstantLR, config={})
    assert task.inputs == ("caption", "loss_weight")
    scramble(model.denoiser)
    model.conditioner.prepare([{"caption": ["a red heart"]}])
    image, weight = torch.randn(2, 3, 32, 32).clamp(-1, 1), torch.ones(2, 1, 32, 32)
    weight[1] = 0.0

    def loss(**fields):
        torch.manual_seed(0)
        return model.loss(Batch(["a", "b"], {"image": image, "caption": ["a red heart"] * 2, **fields}))

    masked, whole = loss(loss_weight=weight), loss(loss_weight=torch.ones(2, 1, 32, 32))
    assert masked[0] == whole[0] > 0
    assert masked[1] == 0 < whole[1]
    with pytest.raises(ValueError, match="the field loss_weight is needed"):
        loss()
    model.denoising_loss.inputs = ()
    assert torch.equal(loss(), whole)
