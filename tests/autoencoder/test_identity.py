"""The first stage that copies, and networks without regularisation."""

import pytest
import torch

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.identity import CopyAutoencoder, IdentityRegularizer
from ldm.autoencoder.kl import KLRegularizer
from ldm.batch import Batch
from tests.conftest import scramble


def test_images_are_latents_and_come_back_as_they_are():
    network = CopyAutoencoder()
    image = torch.rand(2, 3, 5, 7) * 2 - 1
    for fields in ({"image": image}, {"moments": network.encode(image).moments}):
        latent = network.latent(Batch(["a"] * 2, fields))
        assert torch.equal(latent, image)
        assert torch.equal(network.image(latent), image)
    assert (network.downsampling_factor, network.latent_channels) == (1, 3)
    assert int(network.statistics_count) == 1, "complete as it is built"
    assert list(network.parameters()) == []
    network.check_size((5, 7))
    assert network.same_latents(CopyAutoencoder())
    with pytest.raises(ValueError, match="nothing to train"):
        network.last_layer()
    with pytest.raises(ValueError, match="latent_channels=4 cannot be; give one of 3"):
        CopyAutoencoder(latent_channels=4)


def test_networks_without_regularisation():
    small = {"channels": 8, "channel_mult": (1, 1), "blocks": 1, "latent_channels": 2, "groups": 4}
    network = scramble(ConvAutoencoder(IdentityRegularizer(), **small))
    image = torch.rand(2, 3, 8, 8)
    encoding = network.encode(image)
    assert torch.equal(encoding.sample(), network.encode_moments(image))
    penalty = network.regularizer.penalty(encoding, 1)
    assert (penalty.loss.item(), penalty.means, len(penalty.sums)) == (0.0, {}, 0)
    other = ConvAutoencoder(KLRegularizer(), **small)
    assert other.to_moments.out_channels == 2 * network.to_moments.out_channels == 4
