"""Decoders of other files: taken where the latents are the same, in whatever form, and refused where they are not."""

import pytest
import torch

from ldm import checkpoint
from ldm.generation.decoder import with_decoder
from ldm.interop.autoencoder.folding import fold
from tests.interop.autoencoder.tiny import TINY, network_of, random_autoencoder

OPTIONS = TINY["kl"]
NODE = {"_target_": "ldm.autoencoder.convolutional.ConvAutoencoder", **OPTIONS}


def as_it_is(weights):
    return weights


def folded(weights):
    return fold(weights, OPTIONS, keep=0.18215)


def in_half_precision(weights):
    return {
        name: tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def of_other_statistics(weights):
    """Return the same encoder and decoder, whose latents were measured on other images."""
    return {**weights, "scale": weights["scale"] * 3}


def written(folder, change):
    network = network_of(OPTIONS)
    network.load_state_dict(change(random_autoencoder(OPTIONS).state_dict()))
    checkpoint.save(folder / "other.safetensors", network, NODE)
    return folder / "other.safetensors"


@torch.no_grad()
@pytest.mark.parametrize("change", [as_it_is, folded, in_half_precision, of_other_statistics])
def test_a_decoder_of_the_same_latents_gives_the_same_images(tmp_path, change):
    own = random_autoencoder(OPTIONS)
    other = with_decoder(own, written(tmp_path, change))
    assert not any(parameter.requires_grad for parameter in other.parameters())
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = own.image(latents)
    torch.testing.assert_close(other.image(latents), expected, atol=0.02 * float(expected.std()), rtol=0)


def one_channel_shifted(weights):
    return {**weights, "to_moments.bias": weights["to_moments.bias"] + torch.tensor([0.5] + [0.0] * 7)}


def fine_tuned(weights):
    return {**weights, "encoder.conv_in.weight": weights["encoder.conv_in.weight"] * 1.5}


@pytest.mark.parametrize("change", [one_channel_shifted, fine_tuned])
def test_a_decoder_of_other_latents_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"the decoder in .*other.safetensors belongs to the encoder"):
        with_decoder(random_autoencoder(OPTIONS), written(tmp_path, change))
