"""Sampling with the cached tokens of captions: another text takes the place of a caption and of its tokens."""

import copy

import pytest
import torch

from ldm.conditioner.composite import Composite
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.size import SizeConditioner
from ldm.config import build, compose, resolved
from ldm.generation.start import InterpolationStart, InvertedStart
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.sampler.ddim import DDIM
from tests.conditioner.test_conditioner import CAPTIONS, save_pretrained
from tests.conftest import scramble

IMAGE = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a frozen text encoder, whose weights are random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    save_pretrained(folder, "bert")
    config = compose("train", [
        "experiment=txt2img", "conditioner=huggingface", f"conditioner.name={folder}", "conditioner.width=16",
        "conditioner.max_tokens=10", "name=x", "data.size=16", "backbone.model_channels=16", "backbone.groups=8",
        "autoencoder.network.channels=8", "autoencoder.network.groups=4", "sampler.steps=3",
    ])  # fmt: skip
    made = build(resolved(config.model))
    made.conditioner.prepare(None)
    scramble(made.denoiser.backbone)
    with torch.no_grad():
        for parameter in made.denoiser.backbone.parameters():
            if parameter.shape[-1:] == (16,):  # those that read tokens the most
                parameter.mul_(6.0)
    return made.eval()


@pytest.fixture(scope="module")
def cached(model):
    """The captions and the tokens that the encoder gives for them."""
    condition = model.conditioner.encode_captions(CAPTIONS[:2])
    return {"caption": CAPTIONS[:2], "text_tokens": condition.tokens, "text_mask": condition.mask}


WAYS = {
    "negative": lambda model: {"negative": ["a blue heart", ""]},
    "interpolation": lambda model: {"start": InterpolationStart(["a blue heart"] * 2, [7, 8], [0.4, 1.0])},
    "inverted": lambda model: {"start": InvertedStart(IMAGE, "a blue heart", 0.7), "guidance": NoGuidance()},
    "weak": lambda model: {
        "guidance": Autoguidance(scrambled(model), scale=3.0),
        "start": InterpolationStart(["a blue heart"] * 2, [7, 8], [0.4, 1.0]),
    },
}


def shadowed(options):
    """Options by which the other text says what the captions say."""
    start = options.get("start")
    if isinstance(start, InterpolationStart):
        return {"start": InterpolationStart(CAPTIONS[:2], start.end.seeds, start.end.fractions)}
    if isinstance(start, InvertedStart):
        return {"start": InvertedStart(start.image, CAPTIONS[:2], start.strength)}
    return {"negative": ""}


def scrambled(model):
    """A worse model of the same latents."""
    weak = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in weak.denoiser.parameters():
            parameter.mul_(0.9)
    return weak


@pytest.mark.parametrize("way", WAYS)
def test_another_text_is_read_whether_the_captions_tokens_are_cached_or_not(model, cached, way):
    options = {"guidance": ClassifierFreeGuidance(4.0), "sampler": DDIM(6), **WAYS[way](model)}
    by_tokens, by_captions = model.sample(cached, **options), model.sample(prompts=CAPTIONS[:2], **options)
    plain = model.sample(cached, **{**options, **shadowed(options)})
    effect = (by_captions - plain).abs().amax((1, 2, 3))
    assert effect[0] > 1e-4, "the text has an effect"
    assert ((by_tokens - by_captions).abs().amax((1, 2, 3)) <= 0.05 * effect[0]).all()


def test_the_worse_model_reads_captions_and_not_the_tokens_of_another_encoder(model, cached, tmp_path):
    weak = scrambled(model)
    torch.manual_seed(3)
    save_pretrained(tmp_path, "bert")
    weak.conditioner = HuggingFaceConditioner(str(tmp_path), width=16, max_tokens=10)
    weak.conditioner.prepare(None)
    options = {"guidance": Autoguidance(weak, scale=3.0), "sampler": DDIM(3)}
    wanted = model.sample(prompts=CAPTIONS[:2], **options)
    torch.testing.assert_close(model.sample(cached, **options), wanted, atol=1e-4, rtol=0)
    without = {name: value for name, value in cached.items() if name != "caption"}
    assert torch.equal(model.sample(without, sampler=DDIM(3)), model.sample(cached, sampler=DDIM(3)))
    with pytest.raises(
        ValueError, match="the weak model reads captions, but of the images only text_tokens, text_mask"
    ):
        model.sample(without, **options)


def test_without_an_encoder_another_text_is_refused(model, cached):
    bare = copy.deepcopy(model)
    bare.conditioner = HuggingFaceConditioner("nowhere", width=16, max_tokens=10)
    with pytest.raises(RuntimeError, match="no text encoder yet, which every text needs that is not cached"):
        bare.sample(cached, negative="a cat")


def test_a_negative_prompt_is_refused_by_a_model_that_reads_no_caption(model):
    deaf = copy.deepcopy(model)
    deaf.conditioner = SizeConditioner(16)
    with pytest.raises(ValueError, match="this model reads geometry and no caption; leave it out"):
        deaf.sample(prompts="a", negative="a cat")


def test_the_parts_of_a_composite_say_what_stands_for_a_caption(model, cached):
    made = Composite({"text": model.conditioner, "size": SizeConditioner(16)}, width=16, vector_width=1536)
    fields = made.with_captions({**cached, "geometry": torch.zeros(2, 6)}, ["a", "b"])
    assert fields.keys() == {"caption", "geometry"}
    assert fields["caption"] == ["a", "b"]
    assert SizeConditioner(16).with_captions(cached, ["a", "b"]).keys() == cached.keys()
