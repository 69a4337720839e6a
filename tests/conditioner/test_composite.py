"""Conditioners side by side, and the condition that all its parts reach the U-Net with."""

import pytest
import torch

from ldm.backbone.unet import UNet
from ldm.batch import Batch, Condition, tensor_field, whole_geometry
from ldm.conditioner.base import SingleConditioner, learned_state, set_learned_state
from ldm.conditioner.composite import Composite
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.segmentation import SegmentationConditioner
from ldm.conditioner.size import SizeConditioner
from ldm.conditioner.text import cut_captions, text_parts
from ldm.conditioner.transformer import TransformerConditioner
from ldm.config import build, compose, resolved
from ldm.guidance.context import read_unconditional
from ldm.nn.embedding import sinusoidal
from tests.conditioner.test_conditioner import CAPTIONS, SMALL, said
from tests.conftest import scramble

FIELDS = {
    "caption": CAPTIONS[:3],
    "depth": torch.linspace(-1, 1, 48).view(3, 1, 4, 4),
    "geometry": torch.tensor([[50, 70, 0, 9, 32, 48], [32, 48, 0, 0, 32, 48], [300, 200, 5, 0, 32, 48]]),
}


class Maps(SingleConditioner):
    """A map beside x_t; zero where nothing is said. And one token that no mask belongs to."""

    inputs = ("depth",)

    def prepare(self, samples):
        assert samples is None, "it learns nothing"

    def encode(self, fields, dropped):
        depth = tensor_field(fields, "depth") * ~dropped[:, None, None, None]
        return Condition(tokens=depth.flatten(1)[:, None], concat=depth)


def size(**options):
    return SizeConditioner([32, 48], **{"number_width": 4, "vector_width": 24, **options})


def text(**options):
    made = scramble(TransformerConditioner(**{**SMALL, **options}))
    made.prepare([said(CAPTIONS)])
    return made


def composite(text_rate=0.0, map_rate=0.0, size_rate=0.0):
    parts = {"text": text(drop_rate=text_rate), "map": Maps(drop_rate=map_rate), "size": size(drop_rate=size_rate)}
    return Composite(parts, width=16, vector_width=24, concat_channels=1)


def test_tokens_stand_one_after_the_other_vectors_add_up_and_maps_are_stacked():
    made = composite()
    own = {name: part(FIELDS) for name, part in made.parts.items()}
    got = made(FIELDS)
    assert made.inputs == ("caption", "depth", "geometry")
    assert torch.equal(got.tokens, torch.cat([own["text"].tokens, own["map"].tokens], 1))
    assert torch.equal(got.mask, torch.cat([own["text"].mask, torch.ones(3, 1, dtype=torch.bool)], 1))
    assert torch.equal(got.vector, own["size"].vector)
    assert torch.equal(got.concat, own["map"].concat)
    twice = Composite([size(), size()], vector_width=24)(FIELDS)
    torch.testing.assert_close(twice.vector, 2 * own["size"].vector)
    assert twice.tokens is twice.mask is twice.concat is None
    assert Composite([Maps(drop_rate=0.0)] * 2, width=16, concat_channels=2)(FIELDS).concat.shape == (3, 2, 4, 4)


def test_each_part_is_dropped_by_its_own_rate():
    for rates in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        made = composite(*rates)
        got, full, null = made.with_dropout(FIELDS), made(FIELDS), made.null(FIELDS)
        for rate, part in zip(rates, ("mask", "concat", "vector"), strict=True):
            expected = null if rate else full
            assert torch.equal(getattr(got, part), getattr(expected, part))
        assert all(a.shape == b.shape for a, b in zip(full, null, strict=True))
    made = composite(0.5, 0.5, 0.5)
    torch.manual_seed(0)
    many = {name: value * 100 if isinstance(value, list) else value.repeat(100, *[1] * (value.ndim - 1))
            for name, value in FIELDS.items()}  # fmt: skip
    got = made.with_dropout(many)
    dropped = torch.stack([got.mask[:, 4].logical_not(), got.concat.flatten(1).eq(0).all(1), got.vector.eq(0).all(1)])
    assert ((dropped.float().mean(1) - 0.5).abs() < 0.1).all()
    assert (torch.corrcoef(dropped.float()) - torch.eye(3)).abs().max() < 0.2, "each by its own draw"


def test_the_values_of_all_parts_are_checked():
    made = Composite(
        [LabelConditioner(3, vector_width=8), SegmentationConditioner(5, unlabelled=255), size(vector_width=24)]
    )
    fields = {"label": torch.tensor([2]), "segmentation": torch.full((1, 4, 4), 255)}
    made.check(fields)
    with pytest.raises(ValueError, match="the field label has the value 3"):
        made.check({**fields, "label": [3]})
    with pytest.raises(ValueError, match="the field segmentation has the value 254"):
        made.check({**fields, "segmentation": fields["segmentation"] - 1})


def test_a_single_part_gives_the_condition_that_it_gives_alone_with_the_same_draws():
    alone = text(drop_rate=0.5)
    together = Composite({"text": alone}, width=16)
    conditions = []
    for made in (alone, together):
        torch.manual_seed(3)
        conditions.append(made.with_dropout(said(CAPTIONS)))
    assert torch.equal(conditions[0].tokens, conditions[1].tokens)
    assert torch.equal(conditions[0].mask, conditions[1].mask)


def test_what_parts_learn_travels_and_long_captions_are_reported():
    made = composite()
    other = Composite({"text": TransformerConditioner(**SMALL), "size": size()}, width=16, vector_width=24)
    other.prepare(None)
    assert made.learns_from == ("caption",)
    assert other.parts["text"].tokenizer is None, "another process learns"
    set_learned_state(other, learned_state(made))
    assert other.parts["text"].tokenizer.to_str() == made.parts["text"].tokenizer.to_str()
    twice = Composite([TransformerConditioner(**SMALL), Maps(drop_rate=0.0), TransformerConditioner(**SMALL)], width=16)
    twice.prepare(iter([said(CAPTIONS)]))
    tokenizers = [part.tokenizer.to_str() for part in text_parts(twice)]
    assert tokenizers == [made.parts["text"].tokenizer.to_str()] * 2
    assert "1 of 2 captions looked at are longer" in cut_captions(made, [said(["a cat", "a red cat " * 20])])
    assert cut_captions(size(), [said(["a red cat " * 20])]) is None


def test_widths_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="conditioner.width is 24, but the part 'text' gives 16"):
        Composite({"text": text()}, width=24)(FIELDS)
    with pytest.raises(ValueError, match=r"conditioner.vector_width is None, but the part '0' gives 24"):
        Composite([size()])(FIELDS)
    with pytest.raises(ValueError, match="the parts give maps of 1 channels; set conditioner.concat_channels=1"):
        Composite([Maps(drop_rate=0.0)], width=16)(FIELDS)
    with pytest.raises(ValueError, match="conditioner.parts is empty"):
        Composite({})
    with pytest.raises(
        ValueError, match="conditioner.vector_width is 6 times conditioner.number_width, an even number"
    ):
        size(vector_width=8)


def test_size_is_given_by_six_numbers_and_the_asked_size_where_it_is_not_known():
    made = size()
    got = made(FIELDS).vector
    assert torch.equal(got[0, 12:16], sinusoidal(torch.tensor([9]), 4)[0]), "left of the crop"
    whole = made({"caption": ["a", "b"]}).vector
    assert torch.equal(whole, made({"geometry": whole_geometry([32, 48], 2)}).vector)
    assert torch.equal(whole[0], got[1]), "an image of this size that is not cropped"
    assert not torch.equal(whole, made({"geometry": whole_geometry([48, 32], 2)}).vector)
    assert torch.equal(made.null(FIELDS).vector, got), "never dropped, it is in the null condition"
    assert not size(drop_rate=0.1).null(FIELDS).vector.any()


def test_the_unet_uses_every_part_of_a_condition():
    made = composite()
    network = scramble(
        UNet(2, concat_channels=1, model_channels=8, channel_mult=[1, 2], blocks=1, attention_levels=[1], heads=2,
             context_width=16, vector_width=24, groups=4)
    )  # fmt: skip
    x, t, condition = torch.randn(3, 2, 4, 4), torch.full((3,), 0.5), made(FIELDS)
    whole = network(x, t, condition)
    for part, other in (
        ("tokens", -condition.tokens),
        ("mask", condition.mask.roll(1, 1)),
        ("vector", -condition.vector),
        ("concat", -condition.concat),
    ):
        assert not torch.allclose(network(x, t, condition._replace(**{part: other})), whole), part
    swapped = condition.where(torch.tensor([True, False, True]), made.null(FIELDS))
    torch.testing.assert_close(network(x, t, swapped)[1], whole[1])
    there = condition.lerp(swapped, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(there.vector[0], condition.vector[0])
    assert torch.equal(there.vector[2], swapped.vector[2])
    assert all(part.shape[0] == 6 for part in Condition.cat([condition, swapped]))
    with pytest.raises(ValueError, match="backbone.vector_width is 24, but the conditioner gives None"):
        network(x, t, condition._replace(vector=None))


def test_caption_and_size_train_on_rectangles_and_sample():
    """The shipped config, in its smallest form."""
    config = compose("train", [
        "experiment=txt2img", "conditioner=text_and_size", "conditioner@conditioner.parts.text=transformer_icons",
        "name=x", "data.size=[32,48]", "backbone.model_channels=16", "backbone.groups=8", "autoencoder.network.channels=8",
        "autoencoder.network.groups=4", "sampler.steps=2",
    ])  # fmt: skip
    model = build(resolved(config.model))
    model.conditioner.prepare([said(CAPTIONS)])
    scramble(model.denoiser.backbone)
    for height, width in ((32, 48), (48, 32)):
        fields = {"caption": CAPTIONS[:2], "image": torch.randn(2, 3, height, width).clamp(-1, 1)}
        model.loss(Batch(["a", "b"], {**fields, "geometry": whole_geometry([height, width], 2)})).mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.denoiser.backbone.vector.parameters())
    images = model.eval().sample(prompts=["a red cat"], size=[48, 32])
    assert images.shape == (1, 3, 48, 32)
    assert model.sample(prompts=["a red cat"]).shape == (1, 3, 32, 48), "the size of training, else"


def test_what_guidance_leads_away_from_does_not_depend_on_the_negative_prompts_of_other_images():
    """A part that is dropped in training says nothing where there is no negative prompt, alone and beside one."""
    made = Composite({"text": TransformerConditioner(**SMALL), "size": SizeConditioner(8, drop_rate=0.1)},
                     width=16, vector_width=1536)  # fmt: skip
    made.prepare([said(CAPTIONS)])
    made.eval()
    fields = {"caption": CAPTIONS[:2], "geometry": whole_geometry(8, 2)}
    found = read_unconditional(made, fields, ["", "a cat"])
    nothing, negative = made.null(fields), made({**fields, "caption": ["", "a cat"]})
    for part in ("tokens", "mask", "vector"):
        torch.testing.assert_close(getattr(found, part)[0], getattr(nothing, part)[0])
        torch.testing.assert_close(getattr(found, part)[1], getattr(negative, part)[1])
