"""Networks are convolutional: no place has a position, so they take latents larger than those that they were trained on."""

import pytest
import torch

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.nn.attention import MapAttention, MapTransformer
from tests.backbone.test_unet import ZOO, settings
from tests.conftest import scramble


@pytest.mark.parametrize("cross", [False, True])
def test_attention_knows_no_positions(cross):
    """Places in another order give the same values in that order."""
    tokens = torch.randn(2, 3, 8)
    module = scramble(MapTransformer(32, 4, 8, depth=2) if cross else MapAttention(32, 4))
    x, order = torch.randn(2, 32, 4, 6), torch.randperm(24)

    def attended(maps):
        return module(maps, tokens, None) if cross else module(maps)

    mixed = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(attended(mixed).flatten(2), attended(x).flatten(2)[:, :, order], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attended(x), x, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row.concat])
@torch.no_grad()
def test_networks_with_maps_beside_the_latent_run_at_other_sizes_than_trained(name):
    """Also as rectangles, and each image as if it were alone."""
    options = {**settings(name), "model_channels": 32, "context_width": None}
    if "head_channels" in options:
        options["head_channels"] = 16
    network = scramble(UNet(**options))
    factor = network.downsampling_factor
    for height, width in ((2, 2), (2, 4), (3, 5)):
        size = (2, options["in_channels"], height * factor, width * factor)
        x, t, concat = (
            torch.randn(size),
            torch.tensor([0.2, 0.9]),
            torch.randn(2, options["concat_channels"], *size[2:]),
        )
        found = network(x, t, Condition(concat=concat))
        assert found.shape == x.shape
        assert found.isfinite().all()
        assert not torch.allclose(found, network(x, t, Condition(concat=concat.flip(-1))), atol=1e-4)
        torch.testing.assert_close(found[:1], network(x[:1], t[:1], Condition(concat=concat[:1])), atol=1e-4, rtol=1e-4)
