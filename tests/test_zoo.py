"""The experiments of docs/zoo.md: each is the network, the schedule and the training of the model it is named after."""

import re
from typing import NamedTuple

import pytest
import torch

from ldm.config import CONFIGS, build, compose, resolved
from tests.conftest import ROOT
from tests.test_config import SHARDS
from tests.training.stages import composed

LINEAR = (0.0015, 0.0195)
STABLE = (0.00085, 0.012)


class Model(NamedTuple):
    """What is known of a model.

    The shape of its latents, the parameters of its U-Net and of its conditioner (frozen networks are loaded later and not
    among them), the betas, the criterion, the batch and learning rate, the training steps, and the sampler's steps, eta
    and guidance (None: it has none).
    """

    latent: tuple[int, int, int]
    unet: int
    conditioner: int
    betas: tuple[float, float]
    criterion: str
    batch: int
    rate: float
    steps: int
    sampler: tuple[int, float | None, float | None]


ZOO = {
    "celeba256": Model((3, 64, 64), 274_056_163, 0, LINEAR, "L2", 48, 9.6e-5, 410_000, (500, 0.0, None)),
    "ffhq256": Model((3, 64, 64), 274_056_163, 0, LINEAR, "L2", 48, 9.6e-5, 635_000, (200, 1.0, None)),
    "lsun_beds256": Model((3, 64, 64), 274_056_163, 0, LINEAR, "L2", 48, 9.6e-5, 1_900_000, (200, 1.0, None)),
    "lsun_churches256": Model((4, 32, 32), 294_966_916, 0, (0.0015, 0.0155), "L1", 96, 5e-5, 500_000, (200, 0.0, None)),
    "cin256": Model((4, 32, 32), 394_984_196, 512_512, LINEAR, "L2", 64, 6.4e-5, 2_900_000, (200, 1.0, None)),
    "cin256_v2": Model((3, 64, 64), 400_920_579, 512_512, LINEAR, "L2", 1200, 1e-4, 178_000, (250, 1.0, 1.5)),
    "text2img256": Model((3, 64, 64), 403_623_939, 166_590_080, LINEAR, "L2", 32, 6.4e-5, 400_000, (100, 0.0, 1.5)),
    "txt2img_1p4b": Model((4, 32, 32), 872_300_484, 542_895_360, STABLE, "L2", 672, 1e-4, 390_000, (250, 0.0, 1.5)),
    "stable_diffusion_1": Model((4, 64, 64), 859_520_964, 0, STABLE, "L2", 2048, 1e-4, 1_171_000, (50, None, 7.5)),
    "stable_diffusion_2": Model((4, 64, 64), 865_910_724, 0, STABLE, "L2", 2048, 1e-4, 1_400_000, (50, 0.0, 9.0)),
    "layout2img_openimages": Model(
        (3, 64, 64), 246_277_379, 54_656_000, (0.0015, 0.0205), "L1", 32, 6.4e-5, 4_400_000, (200, 0.0, None)
    ),
    "semantic_synthesis256": Model(
        (3, 64, 64), 215_229_315, 546, (0.0015, 0.0205), "L1", 48, 4.8e-5, 360_000, (200, 1.0, None)
    ),
    "semantic_synthesis512": Model(
        (3, 128, 128), 215_229_315, 546, (0.0015, 0.0205), "L1", 16, 1.6e-5, 100_000, (200, 1.0, None)
    ),
    "bsr_sr": Model((3, 64, 64), 113_622_563, 0, (0.0015, 0.0155), "L2", 64, 6.4e-5, 860_000, (100, 1.0, None)),
    "inpainting_big": Model(
        (3, 64, 64), 387_245_827, 0, (0.0015, 0.0205), "L1", 128, 1.28e-5, 360_000, (50, 0.0, None)
    ),
    "retrieval_augmented": Model(
        (16, 48, 48), 1_335_480_400, 0, (0.0015, 0.015), "L2", 64, 1e-4, 400_000, (50, 0.0, 5.0)
    ),
    "image_variation": Model((4, 64, 64), 859_520_964, 0, STABLE, "L2", 32, 1e-4, 87_000, (50, 0.0, 3.0)),
    "depth2img": Model((4, 64, 64), 865_913_604, 0, STABLE, "L2", 2048, 1e-4, 200_000, (50, 0.0, 9.0)),
}


def text(name):
    return (CONFIGS / "experiment" / f"{name}.yaml").read_text()


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_an_experiment_is_the_model_it_is_named_after(name):
    known = ZOO[name]
    config = compose("train", [f"experiment={name}", *SHARDS])
    with torch.device("meta"):
        model = build(resolved(config.model))
    height, width = (length // model.autoencoder.downsampling_factor for length in model.size)
    assert (model.autoencoder.latent_channels, height, width) == known.latent
    assert (count(model.denoiser), count(model.conditioner)) == (known.unet, known.conditioner)
    assert (config.schedule.start, config.schedule.end, config.schedule.steps) == (*known.betas, 1000)
    assert type(model.denoiser.schedule).__name__ == "ScaledLinearSchedule"
    assert type(model.denoising_loss.criterion).__name__ == known.criterion
    stage = config.stage.diffusion
    assert (stage.batch_size, stage.optimizer.lr, stage.trainer.max_steps) == (known.batch, known.rate, known.steps)
    assert stage.optimizer._target_ == "torch.optim.AdamW"
    assert stage.callbacks.ema.decay == 0.9999
    steps, eta, scale = known.sampler
    assert (config.sampler.steps, config.sampler.get("eta"), config.guidance.get("scale")) == (steps, eta, scale)
    assert config.timestep_spacing._target_.endswith("LeadingSpacing")
    reach = 1000 // steps * (steps - 1)
    assert reach > 990 - 1000 // steps, "as in the paper's code, the steps go on to the end of the timesteps"
    if scale is not None:
        assert any(part.drop_rate > 0 for part in model.conditioner.modules() if hasattr(part, "drop_rate"))


@pytest.mark.parametrize("name", ZOO)
def test_its_header_says_what_one_must_know(name):
    lines = text(name).splitlines()
    assert lines[1].startswith(f"# python train.py experiment={name} data.train=")
    assert "autoencoder.ckpt=" in lines[1]
    for part in ("Data: ", "Hardware: ", "Score: ", "Settled: "):
        assert sum(line.startswith(f"# {part}") for line in lines) == 1, part
    assert f"\nname: {name}\n" in text(name)


def test_the_page_about_the_zoo_has_a_row_for_each():
    page = (ROOT / "docs" / "zoo.md").read_text()
    models, _, _ = page.partition("The first stages:")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", models, re.MULTILINE))
    assert rows.keys() == ZOO.keys()
    for name, row in rows.items():
        cells = [cell.strip() for cell in row.split("|")]
        choice = re.search(r"override /autoencoder: (\w+)", text(name))
        assert cells[0] == f"`{choice[1] if choice else 'kl_f8'}`", name
        assert cells[2].startswith(f"{ZOO[name].unet / 1e6:.1f}"), name
        if (trained := ZOO[name].conditioner) > 1e6:
            assert f" + {trained / 1e6:.1f}" in cells[2], name


@pytest.mark.slow
@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONFIGS / "autoencoder").glob("*.yaml")))
def test_every_autoencoder_has_a_tiny_variant(choice):
    config = composed("experiment=autoencoder", f"autoencoder={choice}", "debug=tiny", *SHARDS)
    network = build(resolved(config.autoencoder.network))
    assert count(network) < 200_000
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert network.decode(network.encode(image).sample()).shape == image.shape


def beside(height, width):
    """Fields of one image for the conditioners of maps."""
    return {
        "segmentation": torch.randint(0, 182, (1, height, width)),
        "low_resolution": torch.rand(1, 3, height // 4, width // 4) * 2 - 1,
        "image": torch.rand(1, 3, height, width) * 2 - 1,
        "mask": (torch.rand(1, 1, height, width) > 0.5).float(),
    }


@pytest.mark.parametrize("name", ["semantic_synthesis256", "bsr_sr", "inpainting_big"])
def test_models_with_maps_make_images_larger_than_trained(name):
    config = composed(f"experiment={name}", "autoencoder=kl_f4", "debug=tiny", "sampler.steps=2", *SHARDS)
    model = build(resolved(config.model)).eval()
    torch.nn.init.normal_(model.denoiser.backbone.conv_out.weight, std=0.1)  # which starts at zero
    assert model.size == (32, 32)
    fields = beside(32, 64)
    wanted = {
        "semantic_synthesis256": ["segmentation"],
        "bsr_sr": ["low_resolution"],
        "inpainting_big": ["image", "mask"],
    }
    given = {field: fields[field] for field in wanted[name]}
    image = model.sample(given, size=(32, 64))
    assert image.shape == (1, 3, 32, 64)
    other = {field: value.flip(-1) for field, value in given.items()}
    assert (model.sample(other, size=(32, 64)) - image).abs().max() > 1e-3, "the condition matters"
