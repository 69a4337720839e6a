"""Tiny autoencoders with random weights, for tests of layouts."""

import torch

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.autoencoder.vq import VQRegularizer
from tests.conftest import scramble

SHAPE = {
    "channels": 32, "channel_mult": [1, 2, 3], "blocks": 1, "latent_channels": 4, "attention_levels": [1],
    "middle_attention": True, "groups": 32,
}  # fmt: skip
KL_NODE = {"_target_": "ldm.autoencoder.kl.KLRegularizer", "weight": 1e-6, "log_variance": 0.0}
VQ_NODE = {
    "_target_": "ldm.autoencoder.vq.VQRegularizer", "codes": 48, "latent_channels": 4, "codebook_weight": 0.25,
    "commitment_weight": 1.0, "revive_after": None, "quantized_latents": False,
}  # fmt: skip
TINY = {
    "kl": SHAPE | {"regularizer": KL_NODE},
    "vq": SHAPE | {"regularizer": VQ_NODE},
    "deep": SHAPE | {"regularizer": KL_NODE, "attention_levels": [0, 2], "middle_attention": False, "blocks": 2},
}
"""Options of autoencoders, as other layouts are read."""


def network_of(options):
    """Return the autoencoder of options; a config node will do."""
    rest = {name: value for name, value in options.items() if name not in ("_target_", "regularizer")}
    node = {name: value for name, value in options["regularizer"].items() if name != "_target_"}
    kind = VQRegularizer if "codes" in node else KLRegularizer
    return ConvAutoencoder(kind(**node), **rest).eval()


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def random_autoencoder(options):
    """Return a finished autoencoder with random weights, whose channels have shifts of their own, and scales with KL."""
    network = scramble(network_of(options))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "attend.query" in name or "attend.key" in name:
                parameter.mul_(8)  # else all places would be attended to alike, and queries could as well be keys
        moments = network.encode_moments(images())
        if "codes" in options["regularizer"]:
            vectors = moments.permute(0, 2, 3, 1).reshape(-1, 4)
            network.regularizer.codebook.weight.copy_(vectors[:48])  # else one of them would be nearest to all
            network.scale.fill_(2.5)
        else:
            network.to_moments.weight.mul_(20)  # means and log-variances that differ from place to place
            network.scale.copy_(torch.tensor([0.5, 2.0, 1.25, 0.9]))
        network.shift.copy_(torch.tensor([0.3, -0.2, 0.05, 1.0]))
        network.statistics_count.fill_(7)
    return network


def random_tensors(shapes, dtype=torch.float32):
    """Return random tensors of shapes."""
    generator = torch.Generator().manual_seed(3)
    return {name: (torch.randn(*shape, generator=generator) * 0.05).to(dtype) for name, shape in shapes.items()}
