"""Small classifiers, whose images of two channels are their own latents."""

import torch
from torch import nn

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.batch import Batch
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.diffusion.timestep_sampler import UniformTimesteps

SCHEDULE = ScaledLinearSchedule()


class Plain(Autoencoder):
    """Images of two channels are latents."""

    def __init__(self):
        super().__init__(KLRegularizer(), latent_channels=2, downsampling_factor=1)
        self.weight = nn.Parameter(torch.ones(()))

    def encode_moments(self, image):
        return torch.cat([image * self.weight, torch.full_like(image, -30.0)], dim=1)

    def decode_projected(self, projected):
        return projected

    def encoding_layers(self):
        return [nn.ParameterList([self.weight])]

    def last_layer(self):
        return self.weight

    def last_encoding_layer(self):
        return self.weight


def small(kind, schedule=SCHEDULE, *, own, **options):
    """A classifier of some kind; `own`: its option beside those of all."""
    network = EncoderUNet(2, **{"model_channels": 8, "channel_mult": [1, 2], "blocks": 1, "head_channels": 8, "groups": 4,
                             "attention_levels": [1], **options})  # fmt: skip
    return kind(Plain(), network, schedule, timestep_sampler=UniformTimesteps(), size=8, **own)


def draw(count, mean=0.25, variance=0.25):
    """Images whose numbers are from N(m, v) or N(-m, v), and the signs."""
    signs = torch.randint(2, (count,)) * 2 - 1
    return mean * signs[:, None, None, None] + variance**0.5 * torch.randn(count, 2, 4, 4), signs


def train_to_tell(classifier, fields_of, *, steps=500, size=128):
    """Train a classifier on such images; `fields_of`: signs -> fields."""
    optimizer = torch.optim.Adam([p for p in classifier.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        image, signs = draw(size)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        optimizer.zero_grad()
        classifier.loss(Batch([""] * size, {**fields_of(signs), "image": image})).mean().backward()
        optimizer.step()
    return classifier.eval()


def check_exact(probability_of_plus, classifier, mean=0.25, variance=0.25):
    """Check that p(+ | x_t) is what Bayes' rule says; `probability_of_plus`: logits -> probability."""
    for time in (0.2, 0.5, 0.8):
        t = torch.full((512,), time)
        x_t = classifier.noisy(draw(512)[0], t)
        alpha, sigma = SCHEDULE.exact(torch.tensor(time))
        exact = (2 * alpha * mean * x_t / (alpha**2 * variance + sigma**2)).flatten(1).sum(1)
        with torch.no_grad():
            found, known = probability_of_plus(classifier(x_t, t)), exact.sigmoid()
        assert (found - known).abs().mean() < 0.06
        if time < 0.8:  # later, there is next to nothing to be known
            assert (found - known).abs().mean() < 0.4 * (0.5 - known).abs().mean()
