"""What a step of each stage does to gradients, and in which precision its validation measures."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.autoencoder.kl import KLRegularizer
from ldm.autoencoder.loss import AutoencoderLoss
from ldm.autoencoder.vq import VQRegularizer
from ldm.batch import Batch
from ldm.conditioner.base import Reader
from ldm.optim.divergence import fault_of
from ldm.optim.optimization import clip_gradients
from ldm.optim.scheduler import ConstantWithWarmup
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.diffusion import DiffusionTask
from tests.conftest import scramble

PRECISIONS = ["32-true", "bf16-mixed"]


class Nothing(Reader):
    inputs = ()

    def prepare(self, samples):
        pass


class Model(torch.nn.Module):
    """With a loss of large gradients."""

    def __init__(self):
        super().__init__()
        self.conditioner = Nothing()
        self.net = torch.nn.Linear(48, 8)

    def loss(self, batch):
        return 1e3 * self.net(batch.fields["image"].flatten(1)).square().mean(1)


class Data(pl.LightningDataModule):
    """Smooth, bright images of low contrast."""

    batch_size, position = 2, 0

    def __init__(self, size, count):
        super().__init__()
        ramp = torch.linspace(0, 1, size)
        images = 0.9 + 0.1 * torch.stack([(ramp[:, None] + ramp * (1 + i)).sin() for i in range(count)])
        self.images = images[:, None].expand(-1, 3, -1, -1)

    def cache_latents(self, encode, batch_size):
        pass

    def train_dataloader(self):
        batches = [Batch(["a"] * 2, {"image": self.images[i : i + 2]}) for i in range(0, len(self.images), 2)]
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


def optimizers(norms):
    """Fused, as in the configs; the norm of the gradients at each step is written down."""

    def build(trained):
        optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        place = len(norms)
        norms.append([])

        def note(optimizer, *_):
            parts = [part.grad for group in optimizer.param_groups for part in group["params"] if part.grad is not None]
            norms[place].append(float(torch.nn.utils.get_total_norm(parts)))

        optimizer.register_step_post_hook(note)
        return optimizer

    return build


def autoencoder(regularizer=None, **options):
    network = ConvAutoencoder(
        regularizer or KLRegularizer(),
        channels=8,
        channel_mult=(1, 1),
        blocks=1,
        latent_channels=4,
        attention_levels=(),
        groups=4,
    )
    loss = AutoencoderLoss(PatchDiscriminator(channels=8, layers=1, groups=4), start_step=0)
    return AutoencoderTask(scramble(network), loss, scheduler=ConstantWithWarmup, config={}, **options)


def train(task, data, precision, steps=4):
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=data)
    return trainer


@pytest.mark.parametrize("limit", [1e-3, None])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_gradients_are_clipped_to_the_limit_in_every_precision(stage, precision, limit):
    """By fused optimisers, in both stages and for both networks of the first; None leaves them as they are."""
    norms = []
    shared = {"optimizer": optimizers(norms), "gradient_clip_val": limit}
    if stage == "autoencoder":
        task, data = autoencoder(**shared), Data(16, 8)
    else:
        task, data = DiffusionTask(Model(), scheduler=ConstantWithWarmup, config={}, **shared), Data(4, 8)
    trainer = train(task, data, precision)
    assert len(norms) == (2 if stage == "autoencoder" else 1)
    for applied in norms:
        assert len(applied) == 4
        if limit is None:
            assert min(applied) > 1e-2
        else:
            assert applied == pytest.approx([limit] * 4, rel=1e-2)
    assert float(trainer.callback_metrics["train/gradient_norm"]) > 1e-2, "the norm before is logged"
    assert fault_of(task.watch.code()) is None


@pytest.mark.parametrize("what", ["the loss", "the norm of the gradients"])
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_both_stages_show_what_is_not_finite(stage, what):
    """In the third step: the loss, by an image of inf; the gradients alone, by a hook."""
    shared = {"optimizer": optimizers([]), "gradient_clip_val": 1.0}
    if stage == "autoencoder":
        task, data = autoencoder(**shared), Data(16, 8)
    else:
        task, data = DiffusionTask(Model(), scheduler=ConstantWithWarmup, config={}, **shared), Data(4, 8)
    data.images = data.images.clone()
    if what == "the loss":
        data.images[4, 0, 0, 0] = float("inf")
    else:
        part = task.model.net.weight if stage == "diffusion" else next(task.model.parameters())
        part.register_hook(lambda grad: grad * (float("inf") if task.global_step == 2 else 1.0))
    train(task, data, "32-true")
    assert fault_of(task.watch.code()) == (3, what)


def test_the_discriminators_loss_is_looked_at_too():
    task, data = autoencoder(optimizer=optimizers([]), gradient_clip_val=1.0), Data(16, 8)
    discriminator_loss = task.loss.discriminator_loss
    task.loss.discriminator_loss = lambda *given: (
        discriminator_loss(*given) * (float("nan") if task.global_step == 3 else 1.0)
    )
    train(task, data, "32-true")
    assert fault_of(task.watch.code()) == (3, "the discriminator's loss")


def test_scores_of_reconstructions_do_not_depend_on_the_precision_of_training(monkeypatch):
    """On the same reconstructions; SSIM in bf16 differs in the first digit on bright images of low contrast."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(2, 3, 16, 16, generator=generator)
    for precision in PRECISIONS:
        task, data = autoencoder(optimizer=optimizers([])), Data(16, 4)
        images = iter([data.images[:2], data.images[2:]])
        monkeypatch.setattr(task.model, "decode", lambda raw, encoding, images=images: next(images) + noise)
        task.model.statistics_count.fill_(1)
        trainer = pl.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
        (found[precision],) = trainer.validate(task, datamodule=data, verbose=False)
    full, mixed = (found[precision] for precision in PRECISIONS)
    assert mixed["val/ssim"] == pytest.approx(full["val/ssim"], abs=1e-6)
    assert mixed["val/psnr"] == pytest.approx(full["val/psnr"], abs=1e-5)
    assert mixed["val/kl"] == pytest.approx(full["val/kl"], rel=1e-2), "of what the encoder gives in either"


def test_the_use_of_a_codebook_is_measured_over_the_whole_validation():
    """It is not the mean over batches, each of which uses other codes."""
    task, data = autoencoder(VQRegularizer(64, 4), optimizer=optimizers([])), Data(16, 8)
    data.images = torch.rand(8, 3, 16, 16) * 2 - 1
    regularizer = task.model.regularizer

    def scores(images):
        return regularizer.metrics_of(regularizer.penalty(task.model.encode(images), 768).sums)

    with torch.no_grad():
        outputs = task.model.encode_moments(data.images).permute(0, 2, 3, 1).reshape(-1, 4)
        regularizer.codebook.weight.copy_(outputs[:: len(outputs) // 64][:64])
        expected = scores(data.images)
        parts = [scores(data.images[first : first + 2])["codebook_usage"] for first in range(0, 8, 2)]
    assert expected["codebook_usage"] > 1.05 * sum(parts) / 4
    for _ in range(2):  # nothing is left from the time before
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        (found,) = trainer.validate(task, datamodule=data, verbose=False)
        assert found["val/codebook_usage"] == pytest.approx(expected["codebook_usage"].item())
        assert found["val/perplexity"] == pytest.approx(expected["perplexity"].item(), rel=1e-5)
    assert set(task.metrics) == {name.removeprefix("val/") for name in found}


def test_a_frozen_encoder_keeps_latents_and_codes():
    task, data = (
        autoencoder(VQRegularizer(8, 4, revive_after=1), optimizer=optimizers([]), freeze_encoder=True),
        Data(16, 8),
    )
    before, decoder = task.model.encoder_hash, task.model.last_layer().detach().clone()
    codes = task.model.regularizer.codebook.weight.clone()
    train(task, data, "32-true")
    assert task.model.encoder_hash == before
    assert torch.equal(task.model.regularizer.codebook.weight, codes)
    assert not torch.equal(task.model.last_layer(), decoder)


def test_without_a_limit_gradients_stay_and_the_norm_is_returned():
    part = torch.nn.Parameter(torch.ones(2))
    part.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([part, torch.nn.Parameter(torch.ones(1))], None) == 5.0
    assert part.grad.tolist() == [3.0, 4.0]
    assert clip_gradients(iter([part]), 1.0) == 5.0
    assert part.grad.norm() == pytest.approx(1.0, abs=1e-4)
