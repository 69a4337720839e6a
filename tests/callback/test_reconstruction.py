"""The distance of reconstructions at validations of stage 1: by averaged weights, on all images; its name, and its warning."""

import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.batch import Batch
from ldm.callback.ema import EMA
from ldm.callback.reconstruction import ReconstructionEvaluation
from ldm.metric.frechet import Frechet
from ldm.training.validate import check_images, check_metrics
from tests.metric.test_metric import Pixels
from tests.training.stages import built, composed

TINY = ["experiment=txt2img", "debug=tiny", "trainer=cpu"]


class Scaling(pl.LightningModule):
    """Reconstructs images as themselves times a weight, which is trained to grow."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        return batch.fields["image"] * self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    """Gaussian images in batches of four."""

    def __init__(self, images):
        super().__init__()
        self.val_set = images

    def train_dataloader(self):
        batches = [Batch(["a"] * len(part), {"image": part}) for part in self.val_set.split(4)]
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


def trainer(callbacks, **options):
    return pl.Trainer(accelerator="cpu", callbacks=callbacks, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options)  # fmt: skip


def test_each_validation_measures_all_images_with_averaged_weights(caplog):
    """Images of mean m and deviation s: the distance of the weight w is 3 (m^2 + s^2) (1 - w)^2."""
    images = torch.linspace(0.3, 0.5, 10)[:, None, None, None].expand(-1, 3, 4, 4)
    square = float(images[:, 0, 0, 0].mean() ** 2 + images[:, 0, 0, 0].var())
    evaluation, ema, task = ReconstructionEvaluation({"a": Frechet(Pixels())}), EMA(decay=0.5), Scaling()
    run = trainer([evaluation, ema], max_steps=3, val_check_interval=3)
    run.fit(task, datamodule=Data(images))
    first, last = float(run.callback_metrics["val/rfrechet_pixels"]), task.weight.item()
    ema.apply()
    assert first == pytest.approx(3 * square * (1 - task.weight.item()) ** 2, rel=2e-2)
    assert first != pytest.approx(3 * square * (1 - last) ** 2, rel=4e-2), "not with the weights of the last step"
    (found,) = run.validate(task, datamodule=Data(images), verbose=False)
    assert found["val/rfrechet_pixels"] == pytest.approx(first, rel=1e-5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], (
        "ten images suffice for three features"
    )


def test_too_few_images_are_warned_about_once(caplog):
    evaluation = ReconstructionEvaluation({"a": Frechet(Pixels())})
    place = SimpleNamespace(datamodule=SimpleNamespace(val_set=range(3)), is_global_zero=True)
    with caplog.at_level(logging.WARNING):
        for stage in ("fit", "validate"):
            evaluation.setup(place, None, stage)
    assert [record.getMessage()[:39] for record in caplog.records] == ["rfrechet_pixels is measured on 3 images"]


@pytest.mark.parametrize("name", ["val/rfrechet_efficientnet", "val/psnr"])
def test_the_best_checkpoint_and_a_sweep_can_go_by_it(tmp_path, name):
    best = f"stage.autoencoder.callbacks.checkpoint.best={name}"
    stage = built("autoencoder", composed(*TINY, best), tmp_path)
    assert name in stage.metrics
    check_metrics(name.removeprefix("val/"), [stage])
    (evaluation,) = stage.evaluations
    assert evaluation.logged == ["val/rfrechet_efficientnet"], (
        "the truth about captions says nothing of reconstructions"
    )
    with pytest.raises(ValueError, match="needs at least 2 validation images, but data.val has 1"):
        check_images(SimpleNamespace(val_set=range(1)), stage.evaluations)


def test_it_can_be_left_out(tmp_path):
    stage = built("autoencoder", composed(*TINY, "callbacks@stage.autoencoder.callbacks=none"), tmp_path)
    assert "val/rfrechet_efficientnet" not in stage.metrics
