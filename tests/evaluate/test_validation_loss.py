"""The validation loss depends on the images, their keys and the network, and on nothing else."""

from collections import Counter

import pytest
import pytorch_lightning as pl
import torch

from ldm.batch import Batch
from ldm.config import build, resolved
from ldm.diffusion.noise_error import LEVELS
from ldm.evaluate.validation_loss import SCORES, ValidationLoss, measurement
from ldm.optim.scheduler import ConstantWithWarmup
from ldm.task.diffusion import DiffusionTask
from tests.conditioner.small import rows
from tests.conftest import scramble
from tests.diffusion.networks import Says
from tests.processes.test_ranks import connected
from tests.ranks import on_two_ranks
from tests.training.stages import composed

COUNT = 40
KEYS = [f"image-{number}" for number in range(COUNT)]


def model(*options):
    """A small model conditioned on labels, which are often dropped in training."""
    torch.manual_seed(0)
    config = composed("experiment=class_icons", "debug=tiny", "conditioner.drop_rate=0.9", *options)
    return scramble(build(resolved(config.model))).eval()


def fields(count=COUNT):
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1,
        "label": torch.arange(count) % 3,
    }


def scores(network, chosen, batch_size):
    loss, every = ValidationLoss(), fields()
    for first in range(0, len(chosen), batch_size):
        part = list(chosen)[first : first + batch_size]
        loss.measure(network, Batch([KEYS[row] for row in part], rows(every, part)))
    return {name: float(value) for name, value in loss.scores().items()}


def test_noise_and_level_of_an_image_are_a_hash_of_its_key():
    """The recorded ones are for ever: figures of other versions would not compare."""
    assert measurement("000000123") == (250881586666010207, 1)
    found = Counter(measurement(f"{number:09d}").level for number in range(7000))
    assert found.keys() == set(range(len(LEVELS)))
    assert all(850 < count < 1150 for count in found.values())
    assert len({measurement(key).seed for key in KEYS}) == COUNT


def test_batches_their_order_and_random_numbers_play_no_part():
    network = model()
    whole = scores(network, range(COUNT), COUNT)
    assert whole.keys() == set(SCORES)
    assert whole["loss"] == pytest.approx(sum(whole[name] for name in SCORES[1:]) / len(LEVELS))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for batch_size in (1, 7):
        assert scores(network, range(COUNT)[::-1], batch_size) == pytest.approx(whole, rel=1e-5)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn that training would have drawn"


def test_two_processes_find_what_one_finds():
    network = model()
    whole = scores(network, range(COUNT), 8)

    def work(rank):
        connected()
        assert scores(network, range(rank, COUNT, 2), 4) == pytest.approx(whole, rel=1e-5)

    for code, output in on_two_ranks(work):
        assert code == 0, output


def validated(folder, **options):
    """The scores of a whole validation by the trainer, over images that are no multiple of batches and ranks."""
    torch.manual_seed(0)
    config = composed(
        *("experiment=class_icons", "debug=tiny", f"paths.data_dir={folder}", "data.val_images=23", "data.workers=0")
    )
    network = scramble(build(resolved(config.model)))
    task = DiffusionTask(network, optimizer=torch.optim.Adam, scheduler=ConstantWithWarmup, config={})
    data = build(resolved(config.data))
    data.need(("image", *task.inputs))
    data.open()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", use_distributed_sampler=False, enable_model_summary=False, **quiet, **options
    )
    data.set_batch(6, 1, trainer.world_size)
    trainer.validate(task, datamodule=data, verbose=False)
    assert data.batch_size == 6 / trainer.world_size
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_trainer_validates_alike_on_one_rank_and_on_two(tmp_path):
    alone = validated(tmp_path, devices=1)
    assert alone.keys() == {f"val/{name}" for name in SCORES}

    def work(rank):
        assert validated(tmp_path, devices=2, strategy="ddp") == pytest.approx(alone, rel=1e-5)

    for code, output in on_two_ranks(work):
        assert code == 0, output


def test_what_the_network_predicts_plays_no_part():
    """One function that estimates the noise, said as noise, as the clean latent, as velocity and as flow."""
    channels = model().autoencoder.latent_channels
    estimate = torch.nn.Conv2d(channels, channels, 3, padding=1)
    found = {}
    for prediction in ("noise", "clean", "velocity", "flow"):
        network = model(f"prediction={prediction}")
        denoiser = network.denoiser
        denoiser.backbone = Says(estimate, denoiser.schedule, denoiser.prediction)
        found[prediction] = scores(network, range(COUNT), 8)
    for prediction in ("clean", "velocity", "flow"):
        assert found[prediction] == pytest.approx(found["noise"], rel=1e-5), prediction
    assert found["noise"]["loss"] > 0.1


def test_labels_are_never_dropped_and_count(monkeypatch):
    network = model()
    whole = scores(network, range(COUNT), 8)
    monkeypatch.setattr(network.conditioner, "with_dropout", None)
    assert scores(network, range(COUNT), 8) == whole
    monkeypatch.setattr(network.conditioner, "forward", network.conditioner.null)
    assert scores(network, range(COUNT), 8) != whole


@pytest.mark.parametrize(
    "option", ["weighting=snr", "criterion=huber", "timestep_sampler=cosh", "model.loss.noise_offset=0.5"]
)
def test_the_objective_of_training_plays_no_part(option):
    assert scores(model(option), range(COUNT), 8) == scores(model(), range(COUNT), 8)


def test_a_level_without_an_image_is_left_out():
    network, level = model(), LEVELS[measurement(KEYS[0]).level]
    found = scores(network, [0], 1)
    assert found.keys() == {f"loss_t{level}", "loss"}
    assert found["loss"] == found[f"loss_t{level}"] > 0
