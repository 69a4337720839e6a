"""The first stages of the paper's table 8: sizes of the networks, and the settings of stage 1 that belong to each."""

import shlex

import pytest
import torch

from ldm.config import build, compose, resolved
from tests.cases import mostly_slow
from tests.test_documents import PAGES, commands

SHARDS = ["data.train=/data/{000..099}.tar", "data.val=/data/100.tar"]

COUNTS = {
    "kl_f4": (22351238, 32960771), "kl_f8": (34163592, 49490179), "kl_f16": (28265760, 41343875),
    "kl_f32": (42614656, 61244803), "vq_f4": (22337411, 32960771), "vq_f4_noattn": (21285763, 31909123),
    "vq_f8": (27397764, 40253955), "vq_f8_n256": (27397764, 40253955), "vq_f16": (28155144, 41307011),
}  # fmt: skip
"""Name -> parameters of the encoder and of the decoder."""

MILLIONS = {
    "kl_f4": (22.4, 33.0), "kl_f8": (34.2, 49.5), "kl_f16": (28.3, 41.3), "kl_f32": (42.6, 61.2), "vq_f4": (22.3, 33.0),
    "vq_f4_noattn": (21.3, 31.9), "vq_f8": (27.4, 40.3), "vq_f8_n256": (27.4, 40.3), "vq_f16": (28.2, 41.3),
}  # fmt: skip
"""The same, as counted in the classes of the paper's code."""

CODES = {"vq_f4": 8192, "vq_f4_noattn": 8192, "vq_f8": 16384, "vq_f8_n256": 256, "vq_f16": 16384}
CHANNELS = {"kl_f4": 3, "kl_f8": 4, "kl_f16": 16, "kl_f32": 64, "vq_f4": 3, "vq_f4_noattn": 3, "vq_f8": 4,
            "vq_f8_n256": 4, "vq_f16": 8}  # fmt: skip
DISCRIMINATORS = {
    **dict.fromkeys(["kl_f4", "kl_f8", "kl_f16", "kl_f32"], (0.5, 50001, 3)), "vq_f4": (0.75, 0, 3),
    "vq_f4_noattn": (0.75, 11, 3), "vq_f8": (0.6, 1, 2), "vq_f8_n256": (0.75, 250001, 3), "vq_f16": (0.75, 250001, 2),
}  # fmt: skip
"""Name -> weight of the adversarial term, its first step, layers of the discriminator."""


def composed(name, *overrides):
    return compose("train", ["experiment=autoencoder_paper", f"autoencoder={name}", *SHARDS, *overrides])


@pytest.mark.parametrize("name", COUNTS)
def test_networks_are_those_of_the_paper(name):
    with torch.device("meta"):
        network = build(composed(name).autoencoder.network)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder))
    assert counts == COUNTS[name]
    assert tuple(round(count / 1e6, 1) for count in counts) == MILLIONS[name]
    factor, channels = int(name.split("_")[1].removeprefix("f")), CHANNELS[name]
    assert (network.downsampling_factor, network.latent_channels) == (factor, channels)
    if name in CODES:
        assert network.regularizer.codebook.weight.shape == (CODES[name], channels)
        beta = (network.regularizer.codebook_weight, network.regularizer.commitment_weight)
        assert beta == (0.25, 1.0), "as in the code that trained them"


@pytest.mark.parametrize("name", ["kl_f16", "vq_f4", "vq_f16", "identity"])
def test_a_diffusion_model_has_the_channels_of_its_first_stage(name):
    config = compose("train", ["experiment=txt2img_shards", f"autoencoder={name}", *SHARDS])
    with torch.device("meta"):
        model = build(resolved(config.model))
    assert model.denoiser.backbone.conv_in.in_channels == {**CHANNELS, "identity": 3}[name]


@pytest.mark.parametrize("name", mostly_slow(COUNTS, ["kl_f8", "vq_f4"]))
def test_the_loss_of_stage_1_is_that_of_the_chosen_autoencoder(name):
    assert composed(name).stage.autoencoder.loss.perceptual._target_ == "ldm.pretrained.lpips.LPIPS"
    config = composed(name, "perceptual=none")  # whose weights are not here
    with torch.device("meta"):
        loss = build(config.stage.autoencoder.loss)
        network = build(config.autoencoder.network)
    halved = sum(isinstance(part, torch.nn.Conv2d) and part.stride == (2, 2) for part in loss.discriminator.modules())
    assert (loss.adversarial_weight, loss.start_step, halved) == DISCRIMINATORS[name]
    assert loss.summed_limit == name.startswith("kl")
    if name.startswith("kl"):
        assert network.regularizer.weight == 1e-6
    typed = composed(name, "stage.autoencoder.loss.start_step=7", "autoencoder.discriminator.weight=0.25")
    assert (typed.stage.autoencoder.loss.start_step, typed.stage.autoencoder.loss.adversarial_weight) == (7, 0.25)


@pytest.mark.parametrize(
    ("base", "channels", "expected"),
    [("kl_f8", 16, [34274208, 49545475]), ("kl_f16", 32, [28413248, 41417603])],
)
def test_more_channels_change_the_ends_of_both_networks_alone(base, channels, expected):
    with torch.device("meta"):
        few, many = (build(composed(name).autoencoder.network) for name in (base, f"{base}_d{channels}"))
    assert (many.latent_channels, many.downsampling_factor) == (channels, few.downsampling_factor)
    shapes = [{name: part.shape for name, part in network.named_parameters()} for network in (few, many)]
    changed = {name.rpartition(".")[0] for name, shape in shapes[1].items() if shape != shapes[0][name]}
    assert changed == {"encoder.conv_out", "to_moments", "from_raw", "decoder.conv_in"}
    counts = [sum(p.numel() for p in part.parameters()) for part in (many.encoder, many.decoder)]
    assert counts == expected


def test_the_line_for_ft_mse_is_squared_error_and_a_tenth_of_lpips_for_a_decoder_alone():
    """As the documentation gives it, with another distance in the place of LPIPS, whose weights are not here."""
    (line,) = [
        line for line in commands(PAGES["training.md"]) if "finetune_decoder" in line and "squared_weight" in line
    ]
    config = compose("train", [*shlex.split(line)[1:], "perceptual=none"])
    assert config.stage.autoencoder.freeze_encoder
    with torch.device("meta"):
        loss = build(config.stage.autoencoder.loss)
    loss.perceptual = lambda a, b: (a - b).abs().amax((1, 2, 3))
    image, made = torch.rand(2, 2, 3, 8, 8)
    expected = (image - made).square().mean() + 0.1 * (image - made).abs().amax((1, 2, 3)).mean()
    torch.testing.assert_close(loss.reconstruction(image, made), expected)
