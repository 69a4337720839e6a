"""Networks of full size with random weights give the numbers of diffusers, by way of the layout of CompVis and of diffusers."""

import gc

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel

from ldm.batch import Condition
from ldm.interop.autoencoder import compvis as compvis_autoencoder
from ldm.interop.autoencoder import diffusers as diffusers_autoencoder
from ldm.interop.autoencoder.network import empty
from ldm.interop.unet import compvis as compvis_unet
from ldm.interop.unet import diffusers as diffusers_unet
from ldm.interop.unet.diffusers_config import unet_config
from ldm.interop.unet.names import empty_unet
from tests.interop.autoencoder.published import PUBLISHED, compvis_shapes
from tests.interop.checkpoints import tensors_of
from tests.interop.unet.test_compvis import options_of, published_of

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _free():
    yield
    gc.collect()


@pytest.mark.parametrize("name", ["stable_diffusion_1", "stable_diffusion_2"])
def test_a_unet_of_full_size(name):
    options, linear = options_of(name), name.endswith("2")
    theirs = tensors_of(published_of(options, linear=linear))
    network = empty_unet(options)
    network.load_state_dict(compvis_unet.translation(options, linear=linear).read(theirs).weights, assign=True)
    config = unet_config(options, sample_size=64, linear=linear)
    with torch.device("meta"):
        other = UNet2DConditionModel.from_config(config)
    weights = diffusers_unet.translation(options, linear=linear).write(network.state_dict())
    other.load_state_dict(weights, assign=True)
    x, tokens, steps = torch.randn(1, 4, 16, 16), torch.randn(1, 77, options["context_width"]), torch.tensor([500])
    with torch.no_grad():
        expected = other.eval()(x, steps, tokens).sample
        got = network.eval()(x, (steps + 1) / 1000, Condition(tokens=tokens))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-3 * float(expected.std()), rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_autoencoder_of_full_size(name):
    shapes = {key: torch.Size(shape) for key, shape in compvis_shapes(PUBLISHED[name]).items()}
    options = compvis_autoencoder.options(shapes)
    network = empty(options)
    read = compvis_autoencoder.translation(options).read(tensors_of(shapes)).weights
    buffers = {"shift": torch.zeros(options["latent_channels"]), "scale": torch.ones(options["latent_channels"])}
    network.load_state_dict({**read, **buffers, "statistics_count": torch.tensor(1)}, assign=True)
    config = diffusers_autoencoder.config(options, scaling_factor=1.0, sample_size=64)
    other = (VQModel if "codes" in options["regularizer"] else AutoencoderKL).from_config(config).eval()
    other.load_state_dict(diffusers_autoencoder.translation(options).write(read))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        encoding = network.eval().encode(image)
        found = other.encode(image)
        expected = found.latents if "codes" in options["regularizer"] else found.latent_dist.mean
        assert expected.std() > 0
        torch.testing.assert_close(encoding.mean, expected, atol=1e-3 * float(expected.std()), rtol=0)
        got, decoded = network.decode(expected), other.decode(expected).sample
        torch.testing.assert_close(got, decoded, atol=1e-3 * float(decoded.std()), rtol=0)
