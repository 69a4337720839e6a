"""Nothing of the CPU meets what is on another device, in training and in sampling: models, conditions, starts and guidance.

And nothing is computed there that `trainer.deterministic=true` refuses on a GPU.
"""

import copy

import pytest
import torch

from ldm.autoencoder.base import LatentMoments, latent_moments
from ldm.autoencoder.equivariance import ScaleEquivariance
from ldm.batch import Batch, Size
from ldm.classifier.caption_classifier import CaptionClassifier
from ldm.classifier.label_classifier import LabelClassifier
from ldm.classifier.vocabulary import Vocabulary
from ldm.conditioner.text import TextConditioner
from ldm.config import CONFIGS, build, resolved
from ldm.evaluate.first_stage import ReconstructionWork
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.images import FolderImages
from ldm.evaluate.own import RECONSTRUCTED
from ldm.evaluate.pairs import PairScores
from ldm.evaluate.processes import Place
from ldm.evaluate.validation_loss import ValidationLoss
from ldm.files.picture import to_picture
from ldm.generation.completion import CompletionStart
from ldm.generation.start import ImageStart, InpaintStart, InterpolationStart, InvertedStart
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier import ClassifierGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.guidance.loss import LossGuidance
from ldm.guidance.low_resolution import LowResolutionScore
from ldm.metric.caption import Templates
from ldm.metric.frechet import Frechet
from ldm.metric.store import ValueStore
from ldm.metric.suite import MetricSuite
from ldm.pretrained.vision import standardized
from ldm.sampler.churn import Churn
from ldm.sampler.euler import Euler
from tests.classifier.small import small
from tests.conditioner.small import fields_of
from tests.conditioner.test_conditioner import CAPTIONS
from tests.conditioner.test_first_steps import EXPERIMENTS
from tests.conditioner.test_first_steps import fields_of as true_fields
from tests.conditioner.test_laws import ALL_KINDS
from tests.configs import composed
from tests.deterministic import Deterministic
from tests.metric.test_metric import Pixels
from tests.second_device import There, second_device
from tests.waits import Waits

PROMPTS = ["a red heart", "a blue cat", "a green star"]
WORDS = [*PROMPTS, "a red cat", "a blue star", "green heart"]
"""Captions of which words are learned."""
COLOURS = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
"""Mean and standard deviation of each colour."""


def tiny(*options):
    config = composed("train", "experiment=txt2img", "debug=tiny", "name=x", "sampler.steps=3", *options)
    model = build(resolved(config.model))
    model.conditioner.prepare([{"caption": PROMPTS}])
    return model


def moved(fields, device):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in fields.items()}


def test_it_refuses_what_a_gpu_refuses():
    with second_device() as device:
        one = torch.ones(2, 3).to(device)
        assert isinstance(one + 1, There)
        assert (one @ torch.ones(3, 1, device=device)).cpu().tolist() == [[3.0], [3.0]]
        for wrong in (lambda: one + torch.ones(3), lambda: torch.where(torch.tensor([True, False, True]), one, one)):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.randn(2, generator=torch.Generator(), device=device)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_fields_of_the_cpu_condition_a_model_elsewhere(kind):
    conditioner, fields = ALL_KINDS[kind](drop_rate=0.3).eval(), {**fields_of(2), "seed": torch.arange(2)}
    fields |= {"noise_level": [0.1, 0.2]} if kind == "noisy_low_resolution" else {}
    if isinstance(conditioner, TextConditioner):
        tokens, mask, *_ = conditioner.encode_captions(CAPTIONS[:2])
        ways = [fields, {**fields, "text_tokens": tokens.detach(), "text_mask": mask}]
    else:
        ways = [fields]
    with second_device() as device:
        conditioner.to(device)
        for given in ways:
            for condition in (conditioner(given), conditioner.null(given)):
                assert all(isinstance(part, There) for part in condition if part is not None)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_models_of_the_icons_train_and_sample_there(name, tmp_path):
    config = composed("train", f"experiment={name}", "debug=tiny", f"paths.data_dir={tmp_path}", "sampler.steps=2")
    icons = composed("train", "experiment=class_icons", "debug=tiny", f"paths.data_dir={tmp_path}")
    source = build((config if "_target_" in config.data.source else icons).data.source)
    model, fields = build(config.model).train(), true_fields(source)
    model.conditioner.prepare([fields])
    read = {field: value for field, value in fields.items() if field != "image" or "image" in model.conditioner.inputs}
    read |= {"image": fields["image"]} if "masked_latent" in model.conditioner.inputs else {}
    with second_device() as device, Deterministic():
        model.to(device)
        batch = Batch(["a"] * 4, moved(fields, device))
        with Waits() as waits:
            model.loss(batch).mean().backward()
        assert waits.found == [], "no training step waits for the device"
        assert any(part.grad is not None for part in model.parameters())
        images = model.eval().sample(read, batch_size=3)
    assert type(images) is torch.Tensor
    assert len(images) == 4


SQUARE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
HOLE = torch.zeros(1, 1, 32, 32)
HOLE[..., 8:20, 8:20] = 1.0

WAYS = {
    "negative": lambda model, put: {
        "negative": ["a", "", "b"],
        "guidance": ClassifierFreeGuidance(3.0, rescale=0.5, threshold=1.0),
    },
    "weak": lambda model, put: {"guidance": Autoguidance(copy.deepcopy(model))},
    "score": lambda model, put: {"guidance": LossGuidance(LowResolutionScore(put(SQUARE)[0, :, ::4, ::4]))},
    "image": lambda model, put: {"start": ImageStart(put(SQUARE), 0.6)},
    "inverted": lambda model, put: {"start": InvertedStart(put(SQUARE), "a", 0.3), "guidance": NoGuidance()},
    "inpaint": lambda model, put: {"start": InpaintStart(put(SQUARE), put(HOLE), num_resample=2)},
    "mask_of_the_cpu": lambda model, put: {"start": InpaintStart(put(SQUARE), HOLE)},
    "completion": lambda model, put: {"start": CompletionStart(put(SQUARE), put(HOLE))},
    "interpolation": lambda model, put: {"start": InterpolationStart(["b"] * 3, [5] * 3, [0.0, 0.5, 1.0])},
}


@pytest.fixture(scope="module")
def model():
    return tiny().eval()


@pytest.mark.parametrize("given", [pytest.param("cpu", marks=pytest.mark.slow), "there"])
@pytest.mark.parametrize("way", WAYS)
def test_starts_and_guidance_work_there_and_give_the_same(model, way, given):
    """Their images and masks may lie on either device."""
    expected = model.sample(prompts=PROMPTS, **WAYS[way](model, lambda part: part))
    with second_device() as device, Deterministic():
        there = copy.deepcopy(model).to(device)
        put = (lambda part: part.to(device)) if given == "there" else (lambda part: part)
        images = there.sample(prompts=PROMPTS, **WAYS[way](there, put))
    assert type(images) is torch.Tensor
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def waits_of(model, steps, sampler="ddim", **options):
    """Return how often sampling waits for the device, when it is done for the second time."""
    chosen = build(composed("sample", "ckpt=x", f"sampler={sampler}", f"sampler.steps={steps}").sampler)
    for _ in range(2):
        with Waits() as waits:
            model.sample(prompts=PROMPTS, sampler=chosen, **options)
    return len(waits.found)


class Tall:
    """Log-likelihoods of captions; a classifier as guidance by one takes it."""

    def __init__(self, vocabulary):
        self.reader = vocabulary

    def join(self, autoencoder, schedule):
        pass

    def log_likelihood(self, x_t, t, fields):
        return x_t.flatten(1).mean(1) * self.reader.multi_hot(fields["caption"]).sum(1)


def classifier_guidance(device):
    vocabulary = Vocabulary(8)
    vocabulary.prepare([{"caption": WORDS}])
    return ClassifierGuidance(Tall(vocabulary.to(device)))


STEPPED = {
    **{way: WAYS[way] for way in ("negative", "weak", "score", "image", "completion", "interpolation")},
    "score_of_the_cpu": lambda model, put: {"guidance": LossGuidance(LowResolutionScore(SQUARE[0, :, ::4, ::4]))},
    "interpolated_score": lambda model, put: {
        "guidance": LossGuidance(LowResolutionScore(put(SQUARE)[0, :, ::4, ::4])),
        "start": InterpolationStart(["b"] * 3, [5] * 3, [0.0, 0.5, 1.0]),
    },
    "classifier": lambda model, put: {"guidance": classifier_guidance(model.autoencoder.shift.device)},
}


@pytest.mark.parametrize("way", STEPPED)
def test_steps_of_guided_sampling_do_not_wait_for_the_device(model, way):
    """More steps wait no more often."""
    with second_device() as device:
        there = copy.deepcopy(model).to(device)
        options = STEPPED[way](there, lambda part: part.to(device))
        assert waits_of(there, 2, **options) == waits_of(there, 4, **options)


def test_churned_steps_do_not_wait_for_the_device(model):
    """Their noise levels are found by bisection of the schedule, on the CPU."""
    with second_device() as device:
        there, counts = copy.deepcopy(model).to(device), []
        for steps in (2, 2, 4):
            with Waits() as waits:
                there.sample(prompts=PROMPTS, sampler=Euler(steps, churn=Churn(3.0)))
            counts.append(len(waits.found))
    assert counts[1] == counts[2]


@pytest.mark.parametrize(
    ("kind", "own", "answers"),
    [
        (CaptionClassifier, {"vocabulary": 8}, {"caption": WORDS[:3]}),
        (LabelClassifier, {"num_classes": 3}, {"label": [2, 0, 1]}),
    ],
)
def test_a_step_of_a_classifier_does_not_wait_for_the_device(kind, own, answers):
    classifier = small(kind, own=own)
    classifier.reader.prepare([{"caption": WORDS}])
    with second_device() as device:
        classifier.to(device)
        batch = Batch(["a"] * 3, {"image": torch.randn(3, 2, 8, 8).to(device), **answers})
        with Waits() as waits, Deterministic():
            classifier.loss(batch).mean().backward()
    assert waits.found == []


def test_images_are_standardized_without_waiting_for_the_device():
    images = torch.rand(2, 3, 20, 24)
    expected = standardized(images, 16, *COLOURS)
    with second_device() as device:
        given = images.to(device)
        with Waits() as waits:
            found = standardized(given, 16, *COLOURS)
        assert waits.found == []
        assert torch.equal(found.cpu(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted(path.stem for path in (CONFIGS / "sampler").glob("*.yaml")))
def test_samplers_work_there(model, sampler):
    chosen = build(composed("sample", "ckpt=x", f"sampler={sampler}", "sampler.steps=4").sampler)
    with second_device() as device:
        there = copy.deepcopy(model).to(device)
        assert there.sample(prompts=PROMPTS, sampler=chosen).isfinite().all()
        assert waits_of(there, 4, sampler) == waits_of(there, 6, sampler), "no step waits for the device"


def test_the_validation_loss_is_measured_there(model):
    batch = Batch(["a", "b", "c"], {"image": SQUARE.expand(3, -1, -1, -1), "caption": PROMPTS})
    expected = ValidationLoss()
    expected.measure(model, batch)
    with second_device() as device:
        there, loss = copy.deepcopy(model).to(device), ValidationLoss().to(device)
        loss.measure(there, batch._replace(fields=moved(batch.fields, device)))
        found = loss.compute().cpu()
    torch.testing.assert_close(found, expected.compute(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("float64", [True, False])
def test_reconstructions_are_measured_there(model, tmp_path, float64):
    for number in range(5):
        to_picture(torch.rand(3, 32, 32) * 2 - 1).save(tmp_path / f"{number}.png")
    images = FolderImages(str(tmp_path), Size(32, 32))

    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().flatten(1).mean(1)

    def scores(autoencoder):
        folder = EvaluationFolder(tmp_path / "none", RECONSTRUCTED, {"model": "0" * 16, "images": "some"})
        pairs = PairScores(autoencoder.regularizer, Difference())
        suites = {"features": MetricSuite([Frechet(Pixels())])}
        work = ReconstructionWork(
            folder, Place(), images, autoencoder, suites=suites, pairs=pairs, pairs_store="pairs", batch_size=3
        )
        return work.measure(range(5), work.stores)

    expected = scores(model.autoencoder)
    with second_device(float64=float64) as device:
        found = scores(copy.deepcopy(model.autoencoder).to(device))
    for store, tensors in found.items():
        assert tensors.keys() == expected[store].keys()
        for name in tensors:
            torch.testing.assert_close(tensors[name], expected[store][name], rtol=1e-3, atol=1e-3)


def test_models_train_and_sample_where_there_is_no_float64(model):
    """As on Apple's GPUs: what needs it is computed on the CPU, and gives the same."""
    batch = Batch(["a", "b", "c"], {"image": SQUARE.expand(3, -1, -1, -1), "caption": PROMPTS})
    expected, loss = model.sample(prompts=PROMPTS), ValidationLoss()
    loss.measure(model, batch)
    statistics = latent_moments(model.autoencoder, [batch.fields["image"]])
    with second_device(float64=False) as device:
        there, there_loss = copy.deepcopy(model).to(device), ValidationLoss().to(device)
        images = there.sample(prompts=PROMPTS)
        put = batch._replace(fields=moved(batch.fields, device))
        there_loss.measure(there, put)
        there.train().loss(put).mean().backward()
        found = LatentMoments(there.autoencoder.latent_channels, device)
        found.update(there.autoencoder.encode(put.fields["image"]).mean)
        view = ScaleEquivariance(factors=[2]).beside(put.fields["image"], torch.zeros(3, 2, 16, 16, device=device))
        assert isinstance(view.raw, There)
        with pytest.raises(TypeError, match="gives torch.float64, which the device does not have"):
            put.fields["image"].double()
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(there_loss.compute(), loss.compute(), rtol=1e-4, atol=0)
    assert found.totals.shape == statistics.totals.shape
    assert found.totals.device.type == "cpu"


def test_captions_are_measured_where_there_is_no_float64():
    templates = torch.rand(4, 3, 8, 8) * 2 - 1
    with second_device(float64=False) as device:
        store, nearest = ValueStore(), Templates(templates).nearest(templates[[2, 0]].to(device))
        store.add(torch.ones(2, device=device))
    assert nearest.tolist() == [2, 0]
    assert store.mean() == 1
