"""The first stages of the paper's table 8: sizes of the networks, and the settings of stage 1 that belong to each."""

import pytest
import torch

from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.config import build, compose, resolved

SHARDS = ["data.train=/data/{000..099}.tar", "data.val=/data/100.tar"]

COUNTS = {
    "kl_f4": (0, 0),
}
"""Name -> parameters of the encoder and of the decoder."""

MILLIONS = {
    "kl_f4": (22.4, 33.0), "kl_f8": (34.2, 49.5), "kl_f16": (28.3, 41.3), "kl_f32": (42.6, 61.2), "vq_f4": (22.3, 33.0),
    "vq_f4_noattn": (21.3, 31.9), "vq_f8": (27.4, 40.3), "vq_f8_n256": (27.4, 40.3), "vq_f16": (28.2, 41.3),
}  # fmt: skip
"""The same, counted in the classes of the paper's code."""


def composed(name, *overrides):
    return compose("train", ["experiment=autoencoder", f"autoencoder={name}", *SHARDS, *overrides])


@pytest.mark.parametrize("name", MILLIONS)
def test_networks_have_the_papers_numbers_of_parameters(name):
    with torch.device("meta"):
        network = build(composed(name).autoencoder.network)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder))
    print(name, counts)
