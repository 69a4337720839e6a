"""Fields that the model derives by its autoencoder, and models that are conditioned on them."""

from types import SimpleNamespace

import pytest
import torch

from ldm.autoencoder.derived import underlying_fields, with_derived_fields
from ldm.batch import Batch
from ldm.config import build, resolved
from ldm.generation.start import InterpolationStart
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.sampler.ddim import DDIM
from ldm.training.validate import needed_fields
from tests.cases import mostly_slow
from tests.conditioner.small import fields_of, rows
from tests.conftest import scramble
from tests.training.stages import built, composed

SIZE = [32, 48]


def small(choice, *options):
    """A model on the icons' autoencoder, all weights random; latents are a quarter of the image's size."""
    config = composed(
        "experiment=txt2img", f"conditioner={choice}", "name=x", f"data.size={SIZE}",
        "backbone.model_channels=16", "backbone.groups=8", "autoencoder.network.channels=8",
        "autoencoder.network.groups=4", "sampler.steps=3", *options,
    )  # fmt: skip
    model = build(resolved(config.model))
    with torch.no_grad():  # large weights, so that what is said is seen
        for part, scale in ((model.denoiser.backbone, 4.0), (model.conditioner, 20.0)):
            for weight in scramble(part).parameters():
                weight *= scale
    return model.eval()


@pytest.fixture(scope="module")
def inpainter():
    return small("inpainting")


def needed(model, fields):
    """The fields that samples must have for a model, and no others."""
    return {name: fields[name] for name in underlying_fields(model.conditioner.inputs)}


def test_samples_must_have_what_a_derived_field_is_made_of():
    assert underlying_fields(("masked_latent", "mask", "latent_size")) == ("image", "mask")
    assert underlying_fields(("caption", "depth", "latent_size")) == ("caption", "depth")
    assert underlying_fields(("latent_size", "image_size")) == ()


@pytest.mark.parametrize(("name", "hole"), [("masked_latent", 0.0), ("black_masked_latent", -1.0)])
def test_the_masked_latent_is_that_of_the_image_whose_hole_is_gray_or_black(inpainter, name, hole):
    fields, autoencoder = fields_of(3), inpainter.autoencoder
    autoencoder.shift += 0.5
    given = {name: fields[name] for name in ("image", "mask")}
    found = with_derived_fields(given, (name, "latent_size", "image_size"), autoencoder, size=(8, 12))
    with torch.no_grad():
        seen = torch.where(fields["mask"] > 0, hole, fields["image"])
        expected = autoencoder.to_latent(autoencoder.encode(seen).mean)
    autoencoder.shift -= 0.5
    torch.testing.assert_close(found[name], expected)
    assert found["latent_size"].tolist() == [[8, 12]] * 3
    assert found["image_size"].tolist() == [[32, 48]] * 3
    kept = with_derived_fields({**given, name: "own"}, (name,), autoencoder, size=(8, 12))
    assert kept[name] == "own"
    assert with_derived_fields(given, ("caption",), autoencoder, size=(8, 12)) == given, "nobody asks"


def test_the_condition_of_inpainting_has_a_place_in_the_unet_and_no_second_autoencoder(inpainter):
    assert inpainter.denoiser.backbone.conv_in.in_channels == 4 + 4 + 1
    assert not list(inpainter.conditioner.parameters())
    paper = small("inpainting", "autoencoder.network.latent_channels=3")
    assert paper.denoiser.backbone.conv_in.in_channels == 7


def test_nothing_of_what_is_under_the_mask_is_seen(inpainter):
    fields = needed(inpainter, fields_of(2))
    other = {**fields, "image": torch.where(fields["mask"] > 0, -fields["image"], fields["image"])}
    seen = {**fields, "image": torch.where(fields["mask"] > 0, fields["image"], -fields["image"])}
    first, second, third = (inpainter.sample(one, size=SIZE) for one in (fields, other, seen))
    assert torch.equal(first, second)
    assert not torch.allclose(first, third, atol=1e-3)


def test_a_wrong_size_and_cached_latents_are_reported(inpainter):
    fields = needed(inpainter, fields_of(2))
    moments = {"moments": torch.zeros(2, 8, 8, 12), "mask": fields["mask"]}
    with pytest.raises(ValueError, match="the fields that are there are: moments, mask;.*data.cache_latents=false"):
        inpainter.loss(Batch(["a", "b"], moments))
    with pytest.raises(ValueError, match="the field image is of 32 x 48 pixels, but images of 64 x 48 are to be made"):
        inpainter.sample(fields, size=[64, 48])
    with pytest.raises(ValueError, match="the field mask is of 16 x 16 pixels"):
        inpainter.sample({**fields, "mask": torch.ones(2, 1, 16, 16)}, size=SIZE)


CHOICES = [
    ("unconditional",),
    ("label", "conditioner.num_classes=7", "conditioner.width=16"),
    ("label", "conditioner.num_classes=7", "conditioner.width=null", "conditioner.vector_width=16"),
    ("layout", "conditioner.width=16", "conditioner.depth=1"),
    ("segmentation", "conditioner.num_classes=5", "conditioner.drop_rate=0.1"),
    ("low_resolution", "degradation.factor=2", "conditioner.noise=0.3", "conditioner.vector_width=16"),
    ("inpainting", "conditioner.drop_rate=0.1"),
    ("depth",),
    ("image", "conditioner.name=null", "conditioner.embedding_width=8", "conditioner.projection=true"),
    ("neighbors", "conditioner.width=16"),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice[:1] + choice[-1:]))
def test_a_model_of_each_kind_trains_and_samples_and_its_images_are_independent(choice):
    model, fields = small(*choice), fields_of(3)
    batch = needed(model, fields)
    batch.pop("geometry", None)
    torch.manual_seed(0)
    loss = model.train().loss(Batch(["a", "b", "c"], {**batch, "image": fields["image"]}))
    loss.mean().backward()
    assert loss.shape == (3,)
    assert all(weight.grad is not None for weight in model.conditioner.parameters())
    model.eval()
    given = batch or {"caption": [""] * 3}
    images = model.sample(given, seeds=[5, 6, 7], size=SIZE, guidance=NoGuidance())
    assert images.shape == (3, 3, *SIZE)
    alone = model.sample(rows(given, [1]), seeds=[6], size=SIZE, guidance=NoGuidance())
    torch.testing.assert_close(alone[0], images[1], rtol=1e-3, atol=1e-3)
    guided = model.sample(given, seeds=[5, 6, 7], size=SIZE, guidance=ClassifierFreeGuidance(scale=3.0))
    never_dropped = model.conditioner.drop_rate == 0
    assert torch.allclose(guided, images, atol=1e-3) == never_dropped, "what is never dropped cannot be led away from"
    if choice[0] != "unconditional":
        other = needed(model, fields_of(3, seed=1))
        assert not torch.allclose(
            model.sample(other, seeds=[5, 6, 7], size=SIZE, guidance=NoGuidance()), images, atol=1e-4
        )


def test_noise_is_interpolated_where_nothing_is_said():
    model = small("unconditional")
    ends = model.sample(prompts=["", ""], seeds=[1, 2], size=16)
    start = InterpolationStart(["", ""], [2, 1], [0.0, 1.0])
    torch.testing.assert_close(model.sample(prompts=["", ""], seeds=[1, 2], size=16, start=start), ends[[0, 0]])


@pytest.mark.parametrize("choice", ["segmentation", "depth", "low_resolution"])
def test_maps_are_larger_at_sampling_than_in_training(choice):
    """Convolutionally, as in the paper."""
    options = {"segmentation": ["conditioner.num_classes=5"], "low_resolution": ["degradation.factor=2"]}
    model, fields = small(choice, *options.get(choice, [])), fields_of(1)
    large = {
        name: value.repeat_interleave(2, -1).repeat_interleave(2, -2) for name, value in needed(model, fields).items()
    }
    assert model.sample(large, size=[64, 96], sampler=DDIM(2)).shape == (1, 3, 64, 96)


def test_a_model_whose_conditioner_needs_images_is_not_trained_on_cached_latents(tmp_path):
    options = [
        "experiment=txt2img",
        "debug=tiny",
        "trainer=cpu",
        "conditioner=inpainting",
    ]
    for cached in (True, False):
        stage = built("diffusion", composed(*options, f"data.cache_latents={cached}"), tmp_path)
        assert "masked_latent" in needed_fields([stage])
        assert {"image", "mask"} == set(underlying_fields(needed_fields([stage]))) - {"caption"}
        for encoding in ({}, {"autoencoder": "x"}):
            if not cached and not encoding:
                stage.check_latents(SimpleNamespace(encoding=encoding, check_sizes=lambda check: None))
                continue
            with pytest.raises(ValueError, match="this conditioner needs the images, but training reads latents"):
                stage.check_latents(SimpleNamespace(encoding=encoding, check_sizes=lambda check: None))


@pytest.mark.parametrize(
    "choice",
    mostly_slow(
        ["unconditional", "label", "layout", "segmentation", "low_resolution", "depth", "neighbors"],
        ["layout", "low_resolution", "neighbors"],
    ),
)
def test_debug_tiny_goes_with_conditioners_of_other_fields_than_captions(choice):
    config = composed("experiment=txt2img", "debug=tiny", f"conditioner={choice}")
    model, fields = build(resolved(config.model)), fields_of(2)
    fields["image"] = fields["image"][..., :32]
    if choice == "neighbors":
        fields["neighbors"] = torch.rand(2, 3, model.conditioner.width)
    fields["low_resolution"] = fields["low_resolution"][..., ::2, :16:2]  # a quarter of 32 x 32
    given = {"image": fields["image"], **needed(model, fields)}
    loss = model.loss(Batch(["a", "b"], given))
    assert loss.shape == (2,)
    assert sum(weight.numel() for weight in model.conditioner.parameters()) < 600_000


def test_the_other_end_of_an_interpolation_has_its_own_derived_fields():
    config = composed("experiment=inpainting_icons", "debug=tiny", "sampler.steps=2")
    model = build(config.model).eval()
    scramble(model.denoiser)
    image, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., :16, :] = 1.0
    end = InterpolationStart(["", ""], [1, 1], [0.0, 1.0], fields={"image": -image})
    here, there = (model.sample({"image": one, "mask": mask}, seeds=[1, 1]) for one in (image, -image))
    made = model.sample({"image": image, "mask": mask}, seeds=[1, 1], start=end)
    assert not torch.equal(here[1], there[1])
    torch.testing.assert_close(made, torch.stack([here[0], there[1]]), atol=1e-6, rtol=0)
