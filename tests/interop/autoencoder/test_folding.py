"""Shift and scale folded into the layers around latents: the same latents and images by other weights."""

import copy

import pytest
import torch

from ldm.autoencoder.kl import Posterior
from ldm.interop.autoencoder.folding import fold
from tests.interop.autoencoder.tiny import TINY, images, network_of, random_autoencoder

PLACES = ("shift", "scale", "to_moments.weight", "to_moments.bias", "from_raw.weight", "from_raw.bias")


def loaded(options, weights):
    network = network_of(options)
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def results(network):
    """Return all that a diffusion model and its user see of an autoencoder."""
    encoding = network.encode(images())
    sample = network.to_latent(encoding.sample(torch.Generator().manual_seed(5)))
    mean = network.to_latent(encoding.mean)
    found = [mean, sample, network.image(sample), network.image(mean)]
    if isinstance(encoding, Posterior):  # the log-variance of latents
        found.append(encoding.log_variance + 2 * network.scale.log()[:, None, None])
    return found


@pytest.mark.parametrize("keep", [1.0, 0.18215])
@pytest.mark.parametrize("name", TINY)
def test_latents_and_images_stay_the_same(name, keep):
    network = random_autoencoder(TINY[name])
    before = network.state_dict()
    copied = copy.deepcopy(before)
    after = fold(before, TINY[name], keep=keep)
    assert after.keys() == before.keys()
    assert not after["shift"].any()
    assert torch.equal(after["scale"], torch.full((4,), keep))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {*PLACES, *(["regularizer.codebook.weight"] if name == "vq" else [])}
    folded = loaded(TINY[name], after)
    with torch.no_grad():
        raw = network.encode(images())
        spread = raw.mean.std(), getattr(raw, "log_variance", raw.mean).std()
    assert min(spread) > 0.01, "the test would show little of moments that are all the same"
    for got, expected in zip(results(folded), results(network), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], copied[key]) for key in before), "what was given stays as it was"


def test_codes_stay_the_nearest():
    network = random_autoencoder(TINY["vq"])
    folded = loaded(TINY["vq"], fold(network.state_dict(), TINY["vq"]))
    with torch.no_grad():
        indices = network.regularizer.nearest(network.encode(images()).mean)
        assert torch.equal(folded.regularizer.nearest(folded.encode(images()).mean), indices)
    assert len(indices.unique()) > 10


def test_channels_of_different_scales_with_a_codebook_are_refused():
    weights = random_autoencoder(TINY["vq"]).state_dict()
    weights["scale"] = torch.tensor([1.0, 1.0, 1.0, 1.1])
    with pytest.raises(ValueError, match="other codes would be the nearest.* Use the model here .*autoencoder=kl_f4"):
        fold(weights, TINY["vq"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["kl", "vq"])
def test_types_stay_and_numbers_are_rounded_once(name, dtype):
    exact = {key: value.double() for key, value in random_autoencoder(TINY[name]).to(dtype).state_dict().items()}
    rounded = {key: value.to(dtype) for key, value in exact.items()}
    after = fold(rounded, TINY[name])
    assert {value.dtype for value in after.values()} == {dtype}
    assert all(torch.equal(after[key], value.to(dtype)) for key, value in fold(exact, TINY[name]).items())


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_what_needs_no_folding_keeps_its_bytes(name):
    weights = random_autoencoder(TINY[name]).half().state_dict()
    weights |= {"shift": torch.zeros(4), "scale": torch.full((4,), 0.18215)}
    weights["to_moments.bias"][0] = -0.0
    after = fold(weights, TINY[name], keep=0.18215)
    assert after.keys() == weights.keys()
    assert all(
        torch.equal(after[key].view(-1).view(torch.uint8), weights[key].view(-1).view(torch.uint8)) for key in after
    )


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_must_be_positive(scale):
    weights = random_autoencoder(TINY["kl"]).state_dict()
    with pytest.raises(ValueError, match=f"scale={scale} is not a positive number"):
        fold(weights, TINY["kl"], keep=scale)
    weights["scale"][2] = scale
    with pytest.raises(ValueError, match="is not a positive number"):
        fold(weights, TINY["kl"])
