"""Every choice of configs/metric measures images; those of the same features share one pass of the network."""

import pytest
import torch

from ldm.config import CONFIGS, build, compose
from ldm.metric.statistics import ReferenceBuilder, evenly_spaced
from ldm.metric.suite import MetricSuite
from tests.configs import composed
from tests.pretrained.test_clip_score import save_clip
from tests.pretrained.test_vision_features import dinov2  # noqa: F401  # a fixture

SMALL = {"subset_size": 4, "subsets": 2, "splits": 2, "neighbors": 1}
INCEPTION = ["fid", "kid", "precision_recall", "inception_score"]
OFFLINE = ["offline", "kid_offline", "precision_recall_offline", "inception_score_offline", "cmmd_offline"]
OTHERS = ["sfid", "fd_dinov2", "cmmd", "clip_score"]
IMAGES = torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_all_choices_are_measured_here():
    assert {path.stem for path in (CONFIGS / "metric").glob("*.yaml")} == {*INCEPTION, *OFFLINE, *OTHERS}


def chosen(choices, **extractor):
    """Return the suite of some choices, small, with these options of extractors."""
    config = compose("train", ["experiment=txt2img", f"metric=[{','.join(choices)}]"]).metric
    metrics = []
    for name, options in config.items():
        if name.endswith("_accuracy"):
            continue
        options.update({key: value for key, value in SMALL.items() if key in options})
        if "extractor" in options:
            options.extractor.update(extractor)
        metrics.append(build(options))
    return MetricSuite(metrics)


def scores(suite, captions=()):
    real, made = IMAGES
    builders = {
        name: ReferenceBuilder(suite.extractors[name], evenly_spaced(len(real), kept))
        for name, kept in suite.real_features.items()
    }
    for builder in builders.values():
        builder.update(real, range(6))
    passes = []
    for extractor in suite.extractors.values():
        extractor.register_forward_hook(lambda module, *_: passes.append(module))
    suite.update(made[3:], {"caption": captions[3:]}, range(3, 6))
    suite.update(made[:3], {"caption": captions[:3]}, range(3))
    assert len(passes) == 2 * len(suite.extractors)
    found = suite.compute({name: builder.reference() for name, builder in builders.items()})
    assert list(found) == suite.names
    assert all(torch.tensor(value).isfinite() for value in found.values())
    return found


def test_offline_choices_share_one_network_and_are_not_called_as_the_published_ones():
    suite = chosen(OFFLINE, size=32)
    assert len(suite.extractors) == 1
    assert all(name.endswith("_efficientnet") for name in scores(suite))


@pytest.fixture
def inception(inception_weights):
    return inception_weights


def test_inception_is_shared_and_its_scores_have_the_published_names(inception):
    suite = chosen(INCEPTION, weights=str(inception))
    assert len(suite.extractors) == 1
    names = ["fid", "kid", "kid_std", "precision", "recall", "inception_score", "inception_score_std"]
    assert list(scores(suite)) == names
    places = chosen(["fid", "sfid"], weights=str(inception))
    assert list(scores(places)) == ["fid", "sfid"]


def test_dinov2_and_clip(dinov2, tmp_path):  # noqa: F811
    clip = save_clip(tmp_path)
    assert list(scores(chosen(["fd_dinov2"], name=str(dinov2), size=28))) == ["frechet_dinov2_16"]
    assert list(scores(chosen(["cmmd"], name=str(clip), size=16))) == ["cmmd_clip_16"]
    config = compose("train", ["experiment=txt2img", "metric=[clip_score]", f"metric.clip_score.name={clip}"])
    captions = ["a red heart"] * 6
    assert list(scores(MetricSuite([build(config.metric.clip_score)]), captions)) == ["clip_score"]


@pytest.mark.parametrize("way", ["TensorFlowBilinear", "PyTorchBilinear", "CleanBicubic"])
def test_each_way_to_resize_is_an_option(inception, way):
    options = [f"metric.fid.extractor.weights={inception}"]
    options.append(f"metric.fid.extractor.resize._target_=ldm.pretrained.resizing.{way}")
    config = composed("train", "experiment=txt2img", "metric=fid", *options)
    assert type(build(config.metric.fid).extractor.resize).__name__ == way


def test_images_that_were_measured_by_several_processes_have_the_scores_of_one():
    """To the last bit, in any order, for features and for means over images."""
    one, parts = (
        chosen(["offline", "kid_offline"], size=32),
        [chosen(["offline", "kid_offline"], size=32) for _ in "ab"],
    )
    real, made = IMAGES
    (signature,) = one.real_features
    builder = ReferenceBuilder(one.extractors[signature], range(6))
    builder.update(real, range(6))
    references = {signature: builder.reference()}
    for number, image in enumerate(made):
        one.update(image[None], {}, [number])
        parts[number % 2].update(image[None], {}, [number])
    whole = chosen(["offline", "kid_offline"], size=32)
    for part in reversed(parts):
        whole.merge({name: tensor.clone() for name, tensor in part.state().items()})
    assert whole.compute(references) == one.compute(references)
    whole.merge(parts[0].state())
    with pytest.raises(ValueError, match="image 0 was measured more than once"):
        whole.compute(references)
