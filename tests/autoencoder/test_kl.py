import pytest
import torch
from diffusers import AutoencoderKL

from ldm.autoencoder.base import LatentMoments
from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.autoencoder.kl import KLRegularizer, Posterior
from ldm.autoencoder.loss import AutoencoderLoss
from tests.conftest import scramble
from tests.oracle import autoencoder_weights

SMALL = {"channels": 32, "channel_mult": (1, 2, 2), "blocks": 1, "latent_channels": 4}


def kl(**options):
    return ConvAutoencoder(KLRegularizer(), **SMALL, **options)


@pytest.mark.parametrize("attention", [(), (2,)])
def test_agrees_with_diffusers_given_the_same_weights(attention):
    ours = scramble(kl(attention_levels=attention))
    theirs = AutoencoderKL(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=(
            "DownEncoderBlock2D",
            "DownEncoderBlock2D",
            "AttnDownEncoderBlock2D" if attention else "DownEncoderBlock2D",
        ),
        up_block_types=(
            "AttnUpDecoderBlock2D" if attention else "UpDecoderBlock2D",
            "UpDecoderBlock2D",
            "UpDecoderBlock2D",
        ),
    )
    if attention:  # theirs has one head of 8 channels there, ours as the paper's one head
        for block in [*theirs.encoder.down_blocks, *theirs.decoder.up_blocks]:
            for layer in getattr(block, "attentions", []):
                layer.heads = 1
    theirs.load_state_dict(autoencoder_weights(ours.state_dict()))
    image, raw = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        posterior, expected = ours.encode(image), theirs.encode(image).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.log_variance, expected.logvar, atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.kl(), expected.kl(), atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(ours.decode(raw), theirs.decode(raw).sample, atol=1e-4, rtol=0)


def test_kl_is_zero_for_the_standard_normal_and_positive_elsewhere():
    assert Posterior(torch.zeros(2, 8, 4, 4)).kl().abs().max() == 0
    assert (Posterior(torch.randn(5, 8, 4, 4)).kl() > 0).all()


def test_statistics_whiten_the_latents_and_can_be_undone():
    network = kl()
    raw = (
        torch.randn(64, 4, 8, 8) * torch.tensor([0.5, 1.0, 3.0, 8.0])[:, None, None]
        + torch.tensor([0.0, -2.0, 5.0, 1.0])[:, None, None]
    )
    parts = [LatentMoments(4), LatentMoments(4)]  # as on two processes
    parts[0].update(raw[:10])
    parts[1].update(raw[10:])
    parts[0].totals += parts[1].totals
    parts[0].store(network)
    latent = network.to_latent(raw)
    assert int(network.statistics_count) == 64
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(network.to_raw(latent), raw, atol=1e-4, rtol=0)


def test_size_that_cannot_be_divided_is_an_error():
    with pytest.raises(ValueError, match=r"image size 250 is not a multiple of 4.*use 248"):
        kl().check_size(250)
    with pytest.raises(ValueError, match=r"size 68 is not a multiple of 8, .*; in the place of 68 use 64 or 72$"):
        kl().check_size(68, multiple=2)  # what is proposed is what autoencoder and network both divide
    with pytest.raises(ValueError, match=r"in the place of 3 use 4$"):
        kl().check_size((4, 3))
    for size in (0, -8, 8.0):
        with pytest.raises(ValueError, match=f"size={size} cannot be; give a whole number, at least 1"):
            kl().check_size(size)


def _losses(start_step=0):
    network, loss = (
        kl(),
        AutoencoderLoss(PatchDiscriminator(channels=32, layers=2), start_step=start_step),
    )
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    posterior = network.encode(image)
    return network, loss, image, posterior, network.decode(posterior.sample())


def test_discriminator_step_leaks_nothing_into_the_autoencoder():
    network, loss, image, _, reconstruction = _losses()
    loss.discriminator_loss(image, reconstruction).backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in loss.discriminator.parameters())


def test_adaptive_weight_balances_gradients_at_the_last_layer():
    network, loss, image, posterior, reconstruction = _losses()
    cost = network.regularizer.penalty(posterior, image[0].numel()).loss
    parts = loss.autoencoder(image, reconstruction, cost, last_layer=network.last_layer(), step=0)
    norms = [
        torch.autograd.grad(part, network.last_layer(), retain_graph=True)[0].norm()
        for part in (parts.reconstruction, parts.adversarial_weight * parts.adversarial)
    ]
    torch.testing.assert_close(norms[1], 0.5 * norms[0], rtol=0.05, atol=0)


def published_loss(image, reconstruction, posterior, discriminator, last_layer, perceptual):
    """The loss of the paper's own code, from its formulas: all but the adversarial term are sums over the image."""
    errors = (image - reconstruction).abs() + perceptual(image, reconstruction)[:, None, None, None]
    restored = errors.sum() / len(image)
    judged = -discriminator(reconstruction).mean()
    up, down = (torch.autograd.grad(part, last_layer, retain_graph=True)[0].norm() for part in (restored, judged))
    weight = 0.5 * min(float(up / (down + 1e-4)), 1e4)
    return weight, restored + 1e-6 * posterior.kl().sum() / len(image) + weight * judged


class _Distance(torch.nn.Module):
    def forward(self, a, b):
        return (a - b).square().flatten(1).mean(1)


@pytest.mark.parametrize("strength", [1.0, 1e-7], ids=["balanced", "clamped"])
def test_the_loss_and_its_gradient_are_those_of_the_papers_code_divided_by_the_values_of_an_image(strength):
    """Also where the discriminator is so weak, as a fresh one can be, that the adaptive weight is at its limit."""
    network, discriminator = (
        scramble(kl()).double(),
        PatchDiscriminator(channels=32, layers=2).double(),
    )
    discriminator.stages[-1].weight.data *= strength
    loss, last = AutoencoderLoss(discriminator, perceptual=_Distance(), start_step=0), network.last_layer()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    posterior = network.encode(image)
    reconstruction = network.decode(posterior.mean.double())
    weight, expected = published_loss(image, reconstruction, posterior, discriminator, last, loss.perceptual)
    assert (weight == 0.5 * 1e4) == (strength < 1)
    values = image[0].numel()
    cost = network.regularizer.penalty(posterior, values).loss
    parts = loss.autoencoder(image, reconstruction, cost, last_layer=last, step=0)
    assert parts.adversarial_weight.item() * values == pytest.approx(weight, rel=1e-5)
    assert parts.total.item() * values == pytest.approx(expected.item(), rel=1e-5)
    ours, theirs = (
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(total, list(network.parameters()), retain_graph=True)]
        )
        for total in (parts.total, expected)
    )
    assert float((ours * values - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize(
    ("option", "value"),
    [("absolute_weight", -1.0), ("squared_weight", -1e-6), ("adversarial_weight", float("nan")), ("start_step", 0.5)],
)
def test_weights_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=f"stage.autoencoder.loss.{option}={value} cannot be; give "):
        AutoencoderLoss(**{option: value})


def conv(**options):
    return ConvAutoencoder(KLRegularizer(), **options)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (KLRegularizer, "weight", -1.0),
        (KLRegularizer, "log_variance", 21),
        (conv, "groups", 0),
        (conv, "channel_mult", [1, -2]),
        (conv, "channel_mult", []),
        (conv, "dropout", 1.0),
        (PatchDiscriminator, "layers", 0),
    ],
)
def test_networks_of_impossible_sizes_are_refused(kind, option, value):
    with pytest.raises(ValueError, match=rf"{option}=\S+ (cannot be; give|is no level; give)"):
        kind(**{option: value})


@pytest.mark.parametrize("kind", [conv, PatchDiscriminator])
def test_groups_that_do_not_divide_the_channels_are_refused(kind):
    with pytest.raises(ValueError, match="32 groups do not divide"):
        kind(channels=12)


def test_no_adversarial_term_before_its_first_step():
    network, loss, image, posterior, reconstruction = _losses(start_step=5)
    cost = network.regularizer.penalty(posterior, image[0].numel())
    before = loss.autoencoder(image, reconstruction, cost.loss, last_layer=network.last_layer(), step=4)
    after = loss.autoencoder(image, reconstruction, cost.loss, last_layer=network.last_layer(), step=5)
    assert before.adversarial_weight.item() == 0 < after.adversarial_weight.item()
    expected = before.reconstruction.item() + 1e-6 * cost.means["kl"].item() / (3 * 32 * 32)
    assert before.total.item() == pytest.approx(expected)


def test_life_cycle():
    network = scramble(kl(attention_levels=(1,)))
    image = torch.rand(2, 3, 32, 32)
    network.decode(network.encode(image).sample()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    again = kl(attention_levels=(1,))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.encode(image).mean, network.encode(image).mean)


@torch.no_grad()
def test_each_error_has_its_weight():
    """The recipe of Stable Diffusion's ft-MSE decoder, squared error + 0.1 LPIPS, can be said."""
    image, made, zero = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.zeros(())
    distance = _Distance()

    def loss(**weights):
        parts = AutoencoderLoss(perceptual=distance, **weights).autoencoder(image, made, zero, last_layer=zero, step=0)
        return parts.reconstruction

    absolute, squared, perceptual = (
        (image - made).abs().mean(),
        (image - made).square().mean(),
        distance(image, made).mean(),
    )
    torch.testing.assert_close(loss(), absolute + perceptual)
    tuned = loss(absolute_weight=0.0, squared_weight=1.0, perceptual_weight=0.1)
    torch.testing.assert_close(tuned, squared + 0.1 * perceptual)


def test_a_loss_that_compares_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing compares images with their reconstructions"):
        AutoencoderLoss(absolute_weight=0.0)
    with pytest.raises(ValueError, match="nothing compares"):
        AutoencoderLoss(absolute_weight=0.0, perceptual=_Distance(), perceptual_weight=0.0)
