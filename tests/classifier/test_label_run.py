"""A whole run of `experiment=label_classifier`, tiny, and what it guides: a model that is not conditioned on classes itself."""

import json
import re
import shutil

import pytest
import torch

from ldm.checkpoint import load, load_autoencoder, load_classifier, read, save
from ldm.generation.start import InterpolationStart
from ldm.guidance.classifier import ClassifierGuidance
from tests.conftest import forked

pytestmark = pytest.mark.e2e

OPTIONS = ["train.py", "experiment=label_classifier", "debug=tiny_classifier", "trainer=cpu", "data.source.count=6"]
LONG = ["stage.classifier.trainer.max_steps=120", "stage.classifier.validate_every_n_steps=30"]


@pytest.fixture(scope="module")
def classifier_run(home, places, tiny_run):
    text = forked(*OPTIONS, *LONG, f"autoencoder.ckpt={tiny_run}", *places)
    run = home / "runs" / "label_classifier"
    assert f"next: python sample.py ckpt={tiny_run} guidance=classifier guidance.classifier.path={run} prompt=" in text
    assert 'background" label=0 n=4' in text
    return run


def test_the_run_measures_how_often_a_class_is_right(classifier_run, tiny_run):
    results = json.loads((classifier_run / "classifier" / "results.json").read_text())
    assert {"val/loss", "val/accuracy_0.25", "val/accuracy_0.5", "val/accuracy_0.75"} <= results.keys()
    assert "accuracy of classes" in (classifier_run / "report.html").read_text()
    classifier = load_classifier(classifier_run)
    assert classifier.head.out_features == 6
    assert load_autoencoder(classifier_run / "classifier.safetensors")[0].same_latents(load(tiny_run).autoencoder)


def fit(classifier, model, images, labels):
    with torch.no_grad():
        x = model.autoencoder.to_latent(model.autoencoder.encode(images).mean)
        return classifier.log_likelihood(x, torch.full((len(x),), 0.01), {"label": labels})


def test_images_move_towards_their_classes_the_more_the_larger_the_scale(classifier_run, tiny_run):
    model, classifier = load(tiny_run), load_classifier(classifier_run)
    with torch.no_grad():  # so short a training may have learned nothing; whatever a classifier says is followed
        classifier.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    fields = {"caption": [""] * 6, "label": list(range(6))}

    def mean_fit(scale):
        images = model.sample(fields, guidance=ClassifierGuidance(classifier, scale=scale))
        return float(fit(classifier, model, images, fields["label"]).mean())

    fits = [mean_fit(scale) for scale in (0, 4, 16)]
    assert fits[0] < fits[1] < fits[2]


def test_on_the_way_to_another_class_the_guidance_goes_along(classifier_run, tiny_run):
    model, guidance = load(tiny_run), ClassifierGuidance(load_classifier(classifier_run), scale=16)

    def sample(labels, start=None):
        fields = {"caption": ["a heart"] * len(labels), "label": labels}
        return model.sample(fields, seeds=[1] * len(labels), guidance=guidance, start=start)

    end = InterpolationStart(["a heart"] * 2, [1] * 2, [0.0, 1.0], fields={"label": torch.tensor([5, 5])})
    torch.testing.assert_close(sample([2, 2], end), sample([2, 5]), atol=1e-3, rtol=0)


def test_a_class_that_the_classifier_does_not_know_is_refused_before_anything_is_made(classifier_run, tiny_run):
    guidance = ClassifierGuidance(load_classifier(classifier_run))
    with pytest.raises(
        ValueError, match="the field label has the value 6, but with model.num_classes=6 values are 0 to 5"
    ):
        load(tiny_run).sample({"caption": [""] * 2, "label": [0, 6]}, guidance=guidance)


def sample(run, out, *options, ok=True):
    given = [f"ckpt={run}", f"out={out}", "sampler.steps=4", "device=cpu", "n=1", "prompt=a heart"]
    return forked("sample.py", *given, *options, ok=ok)


def test_sampling_by_the_command(classifier_run, tiny_run, tmp_path):
    guided = ["guidance=classifier", f"guidance.classifier.path={classifier_run}"]
    sample(tiny_run, tmp_path / "a", *guided, "guidance.scale=2", "label=3")
    assert json.loads((tmp_path / "a" / "samples.jsonl").read_text())["label"] == 3
    for options, message in (
        (guided, "this model is conditioned on prompt and label, and for 00000.png label is missing; give label=..."),
        ([*guided, "label=6"], "the value 6, but with model.num_classes=6 values are 0 to 5; give one of these"),
        (["label=3"], "label would change nothing: this model is conditioned on prompt; leave it out"),
    ):
        assert message in sample(tiny_run, tmp_path / "b", *options, ok=False)
    assert not (tmp_path / "b").exists()


def test_measuring_what_it_guides(classifier_run, tiny_run, tmp_path):
    """The classes are read from the validation data, although the model reads captions alone; other weights, other images."""
    path = shutil.copytree(classifier_run, tmp_path / "classifier") / "classifier.safetensors"
    options = [f"ckpt={tiny_run}", f"out={tmp_path}/scores", "num_images=4", "sampler=ddim", "sampler.steps=2"]
    options += ["device=cpu", "guidance=classifier", f"guidance.classifier.path={path}", "metric=offline"]
    forked("-m", "ldm.evaluate", *options)
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert len(results["request"]["guided_by"]) == 1
    config, _ = read(path)
    classifier = load_classifier(path)
    classifier.head.bias[0] += 1.0
    save(path, classifier, config)
    text = forked("-m", "ldm.evaluate", *options, ok=False)
    assert re.search("holds images of another request:\n  guided_by: ", text)


def test_on_data_of_ones_own_the_number_of_classes_is_asked_for(tiny_run, tmp_path):
    own = ["data=shards", "data.train=a.tar", "data.val=b.tar", f"paths.runs_dir={tmp_path}"]
    text = forked("train.py", "experiment=label_classifier", *own, f"autoencoder.ckpt={tiny_run}", ok=False)
    assert "the option model.num_classes takes the value of one that these choices do not have (" in text
    assert "type model.num_classes=VALUE" in text
