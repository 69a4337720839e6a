"""The training step of the first stage, as a plan computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ldm.batch import Batch
from ldm.config import build, resolved
from ldm.plan.workload import Meter, Workload, autoencoder_parts, no_meter
from ldm.task.autoencoder import AutoencoderTask
from ldm.training.stages.autoencoder import AutoencoderStage

LPIPS = "ldm.pretrained.lpips.LPIPS"


class AutoencoderWorkload(Workload):
    """The first stage. Its options are those of Workload."""

    task: AutoencoderTask

    def __init__(self, stage: AutoencoderStage, device: str) -> None:
        super().__init__(stage, device)
        loss = dict(stage.loss)
        if (loss.get("perceptual") or {}).get("_target_") == LPIPS:
            loss["perceptual"] = {"_target_": f"{LPIPS}Network"}
        stage.loss = loss
        if stage.latent_alignment is not None:
            self.missing.append("the alignment of latents: its vision encoder and projection are not counted")
            stage.latent_alignment = None
        with torch.device(device):
            self.task = stage.make_autoencoder_task(build(resolved(self.config.autoencoder.network))).train()
        if (first := self.adversarial_from or 0) >= stage.steps:
            self.missing.append(f"the discriminator, which would start at step {first:,}, and training ends before")
            self.task.loss.discriminator = None

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """See `Workload.parts`."""
        others = {"discriminator": self.task.loss.discriminator, "LPIPS": self.task.loss.perceptual}
        found = {name: [part] for name, part in others.items() if part is not None}
        return {**autoencoder_parts(self.task.model), **found}

    def trained(self) -> Sequence[nn.Module]:
        """See `Workload.trained`."""
        loss = self.task.loss
        return [self.task.model, *([] if loss.discriminator is None else [loss.discriminator])]

    @property
    def adversarial_from(self) -> int | None:
        """The first step with the discriminator; None: there is none."""
        return None if self.task.loss.discriminator is None else self.task.loss.start_step

    def batch(self, count: int) -> Batch:
        """See `Workload.batch`."""
        return Batch([str(number) for number in range(count)], {"image": self.images(count)}, [])

    def step(self, batch: Batch, *, adversarial: bool = True) -> None:
        """See `Workload.step`."""
        self.metered(batch, no_meter, adversarial=adversarial)

    def metered(self, batch: Batch, meter: Meter, *, adversarial: bool = True) -> None:
        """See `Workload.metered`."""
        image, model, loss = batch.fields["image"], self.task.model, self.task.loss
        assert isinstance(image, Tensor)
        first = loss.start_step if adversarial else -1
        if loss.discriminator is not None:
            loss.discriminator.requires_grad_(False)
        with meter("autoencoder forward"):
            encoding, raw, shown, reconstruction = self.task.reconstruct(image)
            penalty = model.regularizer.penalty(encoding, image[0].numel())
        with meter("losses"):
            parts = loss.autoencoder(shown, reconstruction, penalty.loss, last_layer=model.last_layer(), step=first)
            total = parts.total + sum(self.task.more_losses(image, raw, parts.reconstruction).values())
        with meter("backward"):
            total.backward()
        if loss.discriminator is not None:
            loss.discriminator.requires_grad_(True)
        if loss.adversarial(first):
            with meter("discriminator's step"):
                loss.discriminator_loss(shown, reconstruction).backward()
