"""Decoding in tiles: blending is linear and complete, memory is that of a tile, and the seams of a real decoder are small."""

import itertools

import pytest
import torch
from torch import nn

from ldm.autoencoder.tiles import Tiles, decode_tiled
from ldm.config import build, compose, resolved
from tests.conftest import scramble

SIZES = [(16, 16), (17, 40), (40, 9), (33, 34)]
TILES = [(8, 0), (8, 3), (8, 7), ((12, 8), 5), (40, 6)]


class Local(nn.Module):
    """A decoder of f = 4 that looks at nothing but the element itself; it remembers what it was given."""

    downsampling_factor = 4

    def __init__(self):
        super().__init__()
        self.seen = []

    def decode(self, raw):
        self.seen.append(tuple(raw.shape[2:]))
        mixed = torch.cat([raw, raw.sum(1, keepdim=True).sin()], 1)
        return nn.functional.interpolate(mixed, scale_factor=4.0)


class Numbered(Local):
    """A decoder whose images are filled with the number of the tile."""

    def decode(self, raw):
        self.seen.append(tuple(raw.shape[2:]))
        return torch.full((len(raw), 3, 4 * raw.shape[2], 4 * raw.shape[3]), float(len(self.seen) - 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "overlap"), TILES)
def test_a_decoder_that_looks_at_each_element_alone_gives_the_same(size, tile, overlap):
    autoencoder, raw = Local(), torch.randn(2, 2, *size)
    whole = autoencoder.decode(raw)
    autoencoder.seen.clear()
    image = decode_tiled(autoencoder, raw, tile, overlap=overlap)
    torch.testing.assert_close(image, whole, atol=1e-5, rtol=0)
    most = (tile, tile) if isinstance(tile, int) else tile
    assert autoencoder.seen
    assert all(part[0] <= most[0] and part[1] <= most[1] for part in autoencoder.seen), "no tile is larger"


def test_tiles_are_the_fewest_that_overlap_enough():
    autoencoder = Local()
    decode_tiled(autoencoder, torch.randn(1, 2, 8, 26), 8, overlap=2)
    assert autoencoder.seen == [(8, 8)] * 4  # 8 + 3 x 6


def test_blending_is_linear_across_the_overlap_and_between_two_tiles_only():
    image = decode_tiled(Numbered(), torch.randn(1, 2, 8, 14), 8, overlap=2)
    row = image[0, 0, 5]
    assert torch.equal(image, row.expand_as(image))
    ramp = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(row, torch.cat([torch.zeros(24), ramp, torch.ones(24)]))


def test_what_fits_into_one_tile_is_decoded_as_it_is():
    autoencoder, raw = kl(), torch.randn(1, 4, 8, 12)
    for tile in (12, (8, 12), 100):
        with torch.no_grad():
            assert torch.equal(decode_tiled(autoencoder, raw, tile, overlap=3), autoencoder.decode(raw))


@pytest.mark.parametrize(("tile", "overlap"), [(8, 8), (8, -1), ((4, 8), 5), (8, 1.5)])
def test_an_overlap_that_cannot_be_is_refused(tile, overlap):
    with pytest.raises(ValueError, match=f"overlap={overlap} cannot be; give a whole number from 0 to"):
        decode_tiled(Local(), torch.randn(1, 2, 16, 16), tile, overlap=overlap)


class Convolutional(Local):
    """A decoder of convolutions alone, which look 1.75 elements far, 7 pixels."""

    def __init__(self):
        super().__init__()
        widths = [2, 8, 8, 3]
        layers = [nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(widths)]
        self.net = nn.Sequential(
            layers[0], nn.Upsample(scale_factor=2.0), layers[1], nn.Upsample(scale_factor=2.0), layers[2]
        )

    def decode(self, raw):
        return self.net(raw)


@pytest.mark.parametrize("overlap", [0, 2, 4, 8, 12])
@torch.no_grad()
def test_seams_of_convolutions_fall_with_the_overlap(overlap):
    """Wrong is what lies within 7 pixels of the edge of a tile, where its weight is at most 7 pixels / overlap."""
    autoencoder, width, reach = scramble(Convolutional()), 16 + 2 * (16 - overlap), 7
    raw = torch.randn(2, 2, 16, width)
    whole = autoencoder.decode(raw)
    difference = (decode_tiled(autoencoder, raw, 16, overlap=overlap) - whole).abs().amax((0, 1, 2))
    starts = [0, 16 - overlap, 32 - 2 * overlap]
    wrong, clean = torch.tensor(0.0), torch.ones(4 * width, dtype=torch.bool)
    for start in starts:
        here = slice(4 * start, 4 * start + 64)
        wrong = torch.maximum(wrong, (autoencoder.decode(raw[..., start : start + 16]) - whole[..., here]).abs().max())
        for edge in {here.start, here.stop} - {0, 4 * width}:
            clean[max(edge - reach, 0) : edge + reach] = False
    assert wrong > 1e-3
    assert difference[clean].max() < 1e-6
    bound = min(1.0, reach / (4 * overlap)) if overlap else 1.0
    assert 0 < difference.max() <= bound * wrong * 1.001
    if not overlap:
        assert difference.max() > 0.9 * wrong, "without an overlap, the edges are seen as they are"


@torch.no_grad()
def test_seams_of_a_real_decoder_fall_with_the_overlap():
    """Norms and attention look at the whole tile, so that some difference stays; the step from tile to tile does not."""
    autoencoder, raw = kl(), 3 * nn.functional.avg_pool2d(torch.randn(2, 4, 18, 34), 3, 1)
    whole = autoencoder.decode(raw)

    def measured(overlap):
        difference = decode_tiled(autoencoder, raw, 16, overlap=overlap) - whole
        steps = difference.diff(dim=-1).abs().mean((0, 1, 2))
        return float(difference.abs().max()), float(steps[63]), float(steps.median())

    (edge, edge_step, _), (blended, blended_step, usual) = measured(0), measured(8)
    assert blended < 0.8 * edge
    assert blended_step < 0.35 * edge_step
    assert blended_step < 2 * usual, "in the middle of the image, where tiles met, it is as everywhere"


def kl():
    """The decoder of the icons with attention in the middle, of random weights: nothing that starts at zero is left."""
    options = ["autoencoder=kl_icons", "autoencoder.network.middle_attention=true", "name=x"]
    autoencoder = build(resolved(compose("train", options).autoencoder.network))
    for name, parameter in autoencoder.named_parameters():
        if name.endswith("conv2.weight"):
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
    return autoencoder.eval()


@torch.no_grad()
def test_tiles_of_pixels_are_those_of_the_latents_and_the_overlap_is_rounded_up():
    autoencoder, raw = Local(), torch.randn(1, 2, 16, 24)
    image = Tiles(32, 9).decode(autoencoder, raw)
    assert torch.equal(image, decode_tiled(Local(), raw, 8, overlap=3))
    assert set(autoencoder.seen) == {(8, 8)}
    whole = kl()
    latent = torch.randn(2, 4, 8, 8)
    assert torch.equal(Tiles(32, 8).image(whole, latent), whole.image(latent)), "one tile, and the same bits"


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (0, 0, "tile=0 cannot be"),
        (32, 32, "tile_overlap=32 cannot be"),
        (30, 8, "tile=30 is no multiple of 4, the factor of this autoencoder; say tile=32"),
        (
            32,
            29,
            "tile_overlap=29 leaves nothing of tile=32 with an autoencoder of factor 4; say tile_overlap=28, or less",
        ),
    ],
)
def test_tiles_that_cannot_be_are_refused(tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        Tiles(tile, overlap).check(Local())
