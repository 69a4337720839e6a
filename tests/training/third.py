"""A stage that ldm does not know: it learns to tell the mean colour of an image from its latent."""

from torch import nn

from ldm.checkpoint import AUTOENCODER_FILE, load_autoencoder
from ldm.config import build
from ldm.optim.optimization import Trained
from ldm.optim.scheduler import attach
from ldm.task.base import Task
from ldm.training.stage import Stage


class Colour(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Linear(width, 3)


class ThirdTask(Task):
    scores = ("error",)
    autoencoder = None

    def error(self, batch):
        moments = batch.moments if batch.image is None else self.autoencoder[0].encode(batch.image).moments
        wanted = moments.mean((1, 2, 3))[:, None].expand(-1, 3)
        return (self.model.net(moments[:, : self.model.net.in_features].mean((2, 3))) - wanted).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.error(batch)
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/error", self.error(batch), batch_size=len(batch.key))

    def configure_optimizers(self):
        optimizer = self.optimizer(Trained(self.model))
        return [optimizer], [attach(self.scheduler, optimizer, self.trainer.max_steps)]


class ThirdStage(Stage):
    """Its own option is `width`."""

    model_file = "third.safetensors"
    builds_on = (AUTOENCODER_FILE,)
    measured_by = ("data.val*",)
    panels = {"loss": ("train/loss", "val/error")}  # noqa: RUF012
    is_given = False

    def __init__(self, run, name, *, width, **options):
        super().__init__(run, name, **options)
        self.width = width

    def check(self, earlier):
        if not any(before.model_file in self.builds_on for before in earlier):
            raise ValueError("the third stage needs an autoencoder before it")

    def make_task(self):
        return ThirdTask(
            Colour(self.width),
            optimizer=build(self.optimizer),
            scheduler=build(self.scheduler),
            config={"_target_": "tests.training.third.Colour", "width": self.width},
        )

    def check_data(self, data):
        pass

    def prepare(self, data):
        pass

    def remember(self):
        pass

    def take(self, file):
        self.task.autoencoder = (load_autoencoder(file)[0],)

    def trainer_options(self, *, several):
        return {}

    def complete(self, trainer, data):
        print("the third stage is complete")

    def next_command(self):
        return "look at the colours"
