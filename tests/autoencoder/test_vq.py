"""Vector quantisation: the nearest code, gradients, losses, use of the codebook, replaced codes, and diffusers as oracle."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from diffusers import VQModel

from ldm.autoencoder import vq
from ldm.autoencoder.base import latent_moments
from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.autoencoder.loss import AutoencoderLoss
from ldm.autoencoder.vq import VQRegularizer
from ldm.batch import Batch
from tests.conditioner.test_laws import NoWaiting
from tests.conftest import scramble
from tests.oracle import autoencoder_weights
from tests.ranks import on_two_ranks
from tests.second_device import second_device
from tests.waits import Waits

SMALL = {"channels": 32, "channel_mult": (1, 2, 2), "blocks": 1, "latent_channels": 4}


def autoencoder(codes=64, **options):
    network = scramble(ConvAutoencoder(VQRegularizer(codes, 4, **options), **SMALL))
    with torch.no_grad():
        outputs = network.encode_moments(torch.rand(2, 3, 32, 32) * 2 - 1).permute(0, 2, 3, 1).reshape(-1, 4)
        network.regularizer.codebook.weight.copy_(outputs[:codes])  # else one of them would be nearest to all
    return network.eval()


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32) * 2 - 1


@pytest.mark.parametrize("legacy", [True, False])
def test_agrees_with_diffusers_given_the_same_weights(image, legacy):
    weights = {"codebook_weight": 0.25, "commitment_weight": 1.0} if legacy else {}
    ours = autoencoder(**weights)
    theirs = VQModel(
        block_out_channels=(32, 64, 64), layers_per_block=1, latent_channels=4, num_vq_embeddings=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    theirs.load_state_dict(autoencoder_weights(ours.state_dict()))
    theirs.quantize.legacy = legacy
    with torch.no_grad():
        encoding, expected = ours.encode(image), theirs.encode(image).latents
        torch.testing.assert_close(encoding.mean, expected, atol=1e-5, rtol=0)
        quantized, loss, (_, _, indices) = theirs.quantize(expected)
        assert len(indices.unique()) > 10, "the test would show little of one code"
        torch.testing.assert_close(ours.regularizer.project(encoding.mean), quantized, atol=1e-5, rtol=0)
        assert torch.equal(ours.regularizer.nearest(encoding.mean).flatten(), indices)
        penalty = ours.regularizer.penalty(encoding, 1)
        torch.testing.assert_close(penalty.loss, loss, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ours.decode(encoding.mean), theirs.decode(expected).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at_once", [2**26, 100, 1])
def test_the_nearest_code_is_the_nearest(monkeypatch, at_once):
    monkeypatch.setattr(vq, "DISTANCES_AT_ONCE", at_once)
    regularizer = scramble(VQRegularizer(30, 3))
    raw = torch.randn(2, 3, 5, 4) * 0.05
    distances = (raw.permute(0, 2, 3, 1)[..., None, :] - regularizer.codebook.weight).square().sum(-1)
    assert torch.equal(regularizer.nearest(raw), distances.argmin(-1))
    snapped = regularizer.project(raw)
    torch.testing.assert_close(regularizer.project(snapped), snapped)
    assert torch.equal(regularizer.nearest(snapped), regularizer.nearest(raw))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(regularizer.nearest(raw), distances.argmin(-1)), "also where products would be rounded"


@pytest.mark.parametrize("quantized", [False, True])
def test_codes_are_looked_for_once_and_the_numbers_are_those_of_looking_again(image, monkeypatch, quantized):
    network = autoencoder(quantized_latents=quantized)
    regularizer, looked = network.regularizer, []
    monkeypatch.setattr(vq, "_nearest", lambda *given, search=vq._nearest: looked.append(1) or search(*given))
    encoding = network.encode(image)
    made, penalty = network.decode(encoding.sample(), encoding), regularizer.penalty(encoding, 1)
    assert len(looked) == (2 if quantized else 1), "what was quantised is looked up again by the decoder"
    again = network.encode(image)
    expected, again.indices = network.decode(again.sample()), None
    cost = regularizer.penalty(again, 1)
    assert len(looked) == (5 if quantized else 3)
    assert torch.equal(made, expected)
    assert torch.equal(penalty.loss, cost.loss)
    assert torch.equal(penalty.sums, cost.sums)
    weights = [*network.parameters()]
    found, wanted = (torch.autograd.grad(part.square().mean() + price.loss, weights)
                     for part, price in ((made, penalty), (expected, cost)))  # fmt: skip
    assert all(map(torch.equal, found, wanted))
    with torch.no_grad():
        regularizer.codebook.weight.copy_(regularizer.codebook.weight.flip(0))
    fresh = network.encode(image)
    assert not torch.equal(regularizer.penalty(fresh, 1).sums, penalty.sums), (
        "another encoding knows nothing of the first"
    )


def test_codes_start_between_one_nth():
    weight = VQRegularizer(50, 4).codebook.weight.detach()
    assert weight.abs().max() <= 1 / 50
    assert weight.std().item() == pytest.approx(1 / 50 / 3**0.5, rel=0.1)


def test_gradients_pass_straight_through_and_leave_the_codes_alone():
    regularizer = scramble(VQRegularizer(30, 4))
    raw, wanted = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3)
    (regularizer.project(raw) * wanted).sum().backward()
    assert torch.equal(raw.grad, wanted)
    assert regularizer.codebook.weight.grad is None


def test_the_loss_is_equation_3_and_each_term_teaches_one_side():
    raw = torch.randn(2, 4, 3, 3)
    found = {}
    for name, weights in (("both", (1.0, 0.25)), ("codebook", (1.0, 0.0)), ("commitment", (0.0, 0.25))):
        regularizer = scramble(VQRegularizer(30, 4, codebook_weight=weights[0], commitment_weight=weights[1]))
        features = raw.clone().requires_grad_()
        penalty = regularizer.penalty(regularizer(features), 1)
        penalty.loss.backward()
        found[name] = (penalty.loss.item(), features.grad, regularizer.codebook.weight.grad)
        error = (raw - regularizer.project(raw)).square().mean().item()
        assert penalty.means["quantization"].item() == pytest.approx(error, rel=1e-5)
        assert found[name][0] == pytest.approx(sum(weights) * error, rel=1e-5)
    assert found["codebook"][1].abs().max() == 0
    assert found["commitment"][2].abs().max() == 0
    assert torch.equal(found["both"][1], found["commitment"][1])
    assert torch.equal(found["both"][2], found["codebook"][2])
    used = torch.zeros(30, dtype=torch.bool)
    used[regularizer.nearest(raw)] = True
    assert torch.equal(found["both"][2].abs().sum(1) > 0, used), "codes that nothing is near to stay"


@pytest.mark.parametrize("strength", [1.0, 1e-9], ids=["balanced", "clamped"])
def test_the_whole_loss_and_its_gradient_are_those_of_the_papers_code_for_vq(image, strength):
    """There all of it is a mean, and so the limit of the adaptive weight is 1e4; it was the sum's with KL."""
    network = autoencoder(codebook_weight=0.25, commitment_weight=1.0)
    discriminator = PatchDiscriminator(channels=32, layers=2)
    discriminator.stages[-1].weight.data *= strength
    loss = AutoencoderLoss(discriminator, adversarial_weight=0.75, start_step=0, summed_limit=False)
    encoding, last = network.encode(image), network.last_layer()
    made = network.decode(encoding.sample())
    restored, judged = (image - made).abs().mean(), -discriminator(made).mean()
    up, down = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (restored, judged))
    weight = 0.75 * min(float(up / (down + 1e-4)), 1e4)
    snapped = network.regularizer.project(encoding.mean).detach()
    codes = network.regularizer.codebook(network.regularizer.nearest(encoding.mean)).permute(0, 3, 1, 2)
    embedding = (snapped - encoding.mean).square().mean() + 0.25 * (codes - encoding.mean.detach()).square().mean()
    expected = restored + weight * judged + embedding
    penalty = network.regularizer.penalty(encoding, image[0].numel())
    parts = loss.autoencoder(image, made, penalty.loss, last_layer=last, step=0)
    assert parts.adversarial_weight.item() == pytest.approx(weight, rel=1e-4)
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, theirs = (
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(total, list(network.parameters()), retain_graph=True)]
        )
        for total in (parts.total, expected)
    )
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_usage_and_perplexity():
    regularizer = VQRegularizer(8, 2)
    for uses, usage, perplexity in (([5] * 8, 1.0, 8.0), ([7] + [0] * 7, 1 / 8, 1.0), ([3, 3] + [0] * 6, 0.25, 2.0)):
        scores = regularizer.metrics_of(torch.tensor(uses))
        assert scores["codebook_usage"].item() == pytest.approx(usage)
        assert scores["perplexity"].item() == pytest.approx(perplexity)
    regularizer = scramble(VQRegularizer(30, 4))
    parts = [torch.randn(2, 4, 3, 3) * 0.05 for _ in range(3)]
    sums = [regularizer.penalty(regularizer(part), 1).sums for part in parts]
    whole = regularizer.penalty(regularizer(torch.cat(parts)), 1).sums
    assert torch.equal(sum(sums), whole)
    assert whole.sum() == 2 * 3 * 3 * 3


def clusters(seed, count=16, spread=0.01):
    """Return outputs of an encoder that lie around 16 places."""
    centres = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(16, (count, 4, 4), generator=generator)
    noise = torch.randn(count, 4, 4, 4, generator=generator)
    return (centres[places] + spread * noise).permute(0, 3, 1, 2)


def learn(regularizer, batches, first=0):
    """Train the codes alone."""
    optimizer = torch.optim.Adam([regularizer.codebook.weight], lr=1e-2)
    for step in range(first, first + batches):
        encoding = regularizer(clusters(step))
        regularizer.penalty(encoding, 1).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        regularizer.after_batch(encoding, stepped=True)
    return regularizer


def test_codes_that_are_not_used_come_back():
    """Without it, few codes are learned where outputs lie in clusters far from the codes' first places."""
    found = {}
    for after in (None, 5):
        torch.manual_seed(0)
        regularizer = learn(VQRegularizer(32, 4, revive_after=after), 150)
        penalty = regularizer.penalty(regularizer(clusters(999)), 1)
        usage = regularizer.metrics_of(penalty.sums)["codebook_usage"].item()
        found[after] = (usage, penalty.means["quantization"].item())
    assert found[None][0] < 0.4
    assert found[5][0] >= 0.5
    assert found[None][1] > 0.1 > 1e-3 > found[5][1]


def test_a_code_is_replaced_by_an_output_after_the_batches_given_at_a_step_and_not_before():
    regularizer = VQRegularizer(32, 4, revive_after=3)
    before = regularizer.codebook.weight.detach().clone()
    for batch, stepped in enumerate([True, True, False, True]):
        changed = (regularizer.codebook.weight != before).any(1)
        assert not changed.any()
        features = clusters(batch)
        used = torch.zeros(32, dtype=torch.bool)
        used[regularizer.nearest(features)] = True
        regularizer.after_batch(regularizer(features), stepped=stepped)
    changed = (regularizer.codebook.weight != before).any(1)
    assert torch.equal(changed, ~used), "the same few are nearest to all, as all codes lie around 0"
    outputs = features.permute(0, 2, 3, 1).reshape(-1, 4)
    assert (regularizer.codebook.weight[changed][:, None] == outputs).all(-1).any(1).all()
    frozen = VQRegularizer(32, 4, revive_after=1).requires_grad_(False)
    kept = frozen.codebook.weight.clone()
    frozen.after_batch(frozen(clusters(0)), stepped=True)
    assert torch.equal(frozen.codebook.weight, kept), "those of a frozen codebook stay"


def test_replacing_repeats_and_goes_on_from_a_state():
    """Whatever was drawn from the global generator meanwhile, which it does not draw from."""
    torch.manual_seed(0)
    first = VQRegularizer(32, 4, revive_after=4)
    second = copy.deepcopy(first)
    state = torch.get_rng_state()
    learn(first, 10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    learn(second, 10)
    assert torch.equal(first.codebook.weight, second.codebook.weight)
    third = VQRegularizer(32, 4, revive_after=4)
    third.load_state_dict(first.state_dict())
    for part in (first, third):
        for batch in range(6):
            part.after_batch(part(clusters(batch)), stepped=True)
    assert torch.equal(first.codebook.weight, third.codebook.weight)
    assert first.state_dict().keys() == third.state_dict().keys()


def test_each_unused_code_takes_another_output_as_drawn_for_the_batch():
    regularizer, features = VQRegularizer(32, 4, revive_after=1), clusters(0)
    before = regularizer.codebook.weight.detach().clone()
    regularizer.after_batch(regularizer(features), stepped=True)
    changed = (regularizer.codebook.weight != before).any(1)
    outputs = features.permute(0, 2, 3, 1).reshape(-1, 4)
    drawn = torch.randint(len(outputs), (int(changed.sum()),), generator=torch.Generator().manual_seed(1))
    assert torch.equal(regularizer.codebook.weight[changed], outputs[drawn])


def test_replacing_does_not_wait_for_the_device():
    here = VQRegularizer(32, 4, revive_after=2)
    with second_device() as device:
        there = copy.deepcopy(here).to(device)
        for batch in range(6):
            features = clusters(batch).to(device)
            with Waits() as waits:
                there.after_batch(there(features), stepped=True)
            assert waits.found == [] or batch == 0
        found = there.codebook.weight.detach().cpu()
    for batch in range(6):
        here.after_batch(here(clusters(batch)), stepped=True)
    assert torch.equal(found, here.codebook.weight)


def _replace_on_a_rank(rank):
    os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    regularizer = VQRegularizer(32, 4, revive_after=2)
    for batch in range(3):
        regularizer.after_batch(regularizer(clusters(10 * rank + batch)), stepped=True)
    both = [torch.empty_like(regularizer.codebook.weight) for _ in range(2)]
    dist.all_gather(both, regularizer.codebook.weight.detach())
    assert torch.equal(*both)
    assert (regularizer.codebook.weight.abs() > 1 / 32).any()
    from ldm.task.autoencoder import Totals

    totals = Totals(3)
    for value in (rank, 1.0):
        totals.update(torch.full((3,), value))
    assert totals.compute().tolist() == [3.0] * 3


def test_ranks_replace_codes_alike_and_add_up_their_use():
    for code, output in on_two_ranks(_replace_on_a_rank):
        assert code == 0, output


@pytest.mark.parametrize("quantized", [False, True])
def test_latents_before_or_after_quantisation(image, quantized):
    """The decoder gives the same image of both, and cached moments give the latents of the image."""
    network = autoencoder(quantized_latents=quantized)
    with torch.no_grad():
        encoding = network.encode(image)
        distances = (encoding.mean - network.regularizer.project(encoding.mean)).abs().max()
        assert (distances < 1e-6) == quantized
        features = network.encode_moments(image)
        expected = network.decode_projected(network.regularizer.project(features))
        torch.testing.assert_close(network.decode(encoding.mean), expected, atol=1e-5, rtol=0)
        assert torch.equal(encoding.sample(), encoding.mean)
        network.scale.fill_(3.0)
        latents = [network.latent(Batch(["a"] * 2, {name: value})) for name, value in
                   (("image", image), ("moments", encoding.moments))]  # fmt: skip
        torch.testing.assert_close(*latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(network.image(latents[0]), expected, atol=1e-4, rtol=0)
    assert encoding.moments.shape == (2, 4, 8, 8)
    before = network.encoder_hash
    network.regularizer.codebook.weight.data.add_(0.1)
    assert (network.encoder_hash != before) == quantized
    assert network.regularizer.penalty(network.encode(image), 1).means["quantization"] > 1e-6


def test_statistics_whiten_the_latents(image):
    network = autoencoder()
    moments = latent_moments(network, [image, image.flip(-1)])
    moments.store(network)
    raw = torch.cat([network.encode(part).mean for part in (image, image.flip(-1))])
    latent = network.to_latent(raw)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latent.square().mean((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"), [("codes", 0), ("commitment_weight", -1), ("revive_after", 0), ("quantized_latents", 1)]
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=f"autoencoder.network.regularizer.{option}={value} cannot be; give "):
        VQRegularizer(**{"codes": 8, "latent_channels": 4, option: value})


def test_codes_of_another_length_are_refused():
    with pytest.raises(ValueError, match="regularizer.latent_channels=3 is not the number of channels .*=4; give the"):
        ConvAutoencoder(VQRegularizer(8, 3), **SMALL)


def test_life_cycle(image):
    network = autoencoder().train()
    encoding = network.encode(image)
    loss = network.decode(encoding.sample()).square().mean() + network.regularizer.penalty(encoding, 1).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.abs().sum() > 0 for p in network.encoder.parameters())


def test_no_value_on_the_device_is_read_in_training():
    """The device is one that holds no values at all."""
    regularizer = VQRegularizer(16, 4).to("meta")
    encoding = regularizer(torch.empty(2, 4, 8, 8, device="meta"))
    with NoWaiting():
        penalty = regularizer.penalty(encoding, 10)
        regularizer.metrics_of(penalty.sums)
    assert penalty.sums.shape == (16,)
