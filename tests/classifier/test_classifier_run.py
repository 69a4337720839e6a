"""A whole run of `experiment=classifier`, tiny, and sampling with what it leaves."""

import json
import shutil

import pytest
import torch

from ldm.autoencoder.base import Autoencoder
from ldm.callback.curves import read_metrics
from ldm.checkpoint import load, load_autoencoder, load_classifier, read, save
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier import ClassifierGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from tests.conftest import forked

pytestmark = pytest.mark.e2e

OPTIONS = ["train.py", "experiment=classifier", "debug=tiny_classifier", "trainer=cpu", "data.source.count=6"]
PROMPTS = ["a red heart on a white background", "a blue cat on a black background"] * 2
STEPS = 120
LONG = [f"stage.classifier.trainer.max_steps={STEPS}", "stage.classifier.validate_every_n_steps=30"]
LONG += ["stage.classifier.callbacks.checkpoint.every_n_steps=60"]


@pytest.fixture(scope="module")
def classifier_run(home, places, tiny_run):
    text = forked(*OPTIONS, *LONG, f"autoencoder.ckpt={tiny_run}", *places)
    run = home / "runs" / "classifier"
    assert f"next: python sample.py ckpt={tiny_run} guidance=classifier guidance.classifier.path={run} prompt=" in text
    return run


def test_a_run_folder_holds_everything(classifier_run, tiny_run):
    assert (classifier_run / "curves.png").stat().st_size > 1000
    results = json.loads((classifier_run / "classifier" / "results.json").read_text())
    assert results["steps"] == STEPS
    curves = read_metrics(classifier_run / "classifier" / "logs")
    scores = {"val/loss", "val/recall_0.25", "val/recall_0.5", "val/recall_0.75"}
    assert scores <= results.keys()
    assert scores | {"train/loss", "train/gradient_norm"} <= curves.keys()
    assert curves["val/loss"][-1][1] < curves["val/loss"][0][1]
    model = load_classifier(classifier_run)
    assert model.autoencoder.same_latents(load(tiny_run).autoencoder)
    assert {"red", "heart", "background"} & model.vocabulary.fractions.keys() == {"red", "heart"}
    assert load_autoencoder(classifier_run / "classifier.safetensors")[0].same_latents(model.autoencoder)


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(classifier_run, tiny_run, places, tmp_path):
    """From a checkpoint of the middle, with what was learned from the captions, to the same weights."""
    run = tmp_path / "classifier"
    options = [*OPTIONS, *LONG, f"autoencoder.ckpt={tiny_run}", places[0], f"paths.runs_dir={tmp_path}"]
    shutil.copytree(classifier_run, run)
    for path in [*run.glob("*.safetensors"), *run.glob("classifier/checkpoints/*"), run / "classifier/results.json"]:
        if path.name != "step-00000060.ckpt":
            path.unlink()
    assert "continuing classifier" in forked(*options)
    ended, expected = (read(path / "classifier.safetensors")[1] for path in (run, classifier_run))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_cached_latents_of_the_same_autoencoder_train_it(home, places, tiny_run, tmp_path):
    icons = next((home / "data").glob("icons-*"))
    ckpt = f"autoencoder.ckpt={tiny_run}"
    forked("-m", "ldm.encode", ckpt, f"data.train={icons}/train-*.tar", f"data.val={icons}/val-*.tar", "data.size=32",
            "data.workers=0", f"out={tmp_path}/latents", places[0])  # fmt: skip
    options = [
        "train.py",
        "experiment=classifier",
        "data=latents",
        "data.size=32",
        "data.workers=0",
        "trainer=cpu",
        ckpt,
    ]
    options += [f"data.train={tmp_path}/latents/*.tar", f"data.val={icons}/val-*.tar", "name=from-latents"]
    assert "finished" in forked(*options, "debug=tiny_classifier", *places)


def likelihood(classifier, model, prompts, guidance):
    """Mean log p(prompt | image) of images that the model makes with some guidance."""
    images = model.sample(prompts=prompts, guidance=guidance)
    with torch.no_grad():
        x = model.autoencoder.to_latent(model.autoencoder.encode(images).mean)
        return float(classifier.log_likelihood(x, torch.full((len(x),), 0.01), {"caption": prompts}).mean())


def test_images_move_towards_the_prompt_the_more_the_larger_the_scale(classifier_run, tiny_run):
    model, classifier = load(tiny_run), load_classifier(classifier_run)
    fits = [likelihood(classifier, model, PROMPTS, ClassifierGuidance(classifier, scale=scale)) for scale in (0, 4, 16)]
    assert fits[0] < fits[1] < fits[2]
    assert fits[0] == pytest.approx(likelihood(classifier, model, PROMPTS, NoGuidance()), abs=1e-4)
    under = ClassifierFreeGuidance(2.0)
    both = likelihood(classifier, model, PROMPTS, ClassifierGuidance(classifier, scale=16, guidance=under))
    assert both > likelihood(classifier, model, PROMPTS, under)


def sample(run, out, *options, ok=True):
    given = [f"ckpt={run}", f"out={out}", "sampler.steps=4", "device=cpu", "n=1", "guidance=classifier"]
    return forked("sample.py", *given, *options, ok=ok)


def test_sampling_by_the_command(classifier_run, tiny_run, tmp_path):
    path = f"guidance.classifier.path={classifier_run}"
    under = ["guidance@guidance.guidance=classifier_free", "guidance.guidance.scale=1.5"]
    sample(tiny_run, tmp_path / "a", path, "guidance.scale=2", f"prompt={PROMPTS[0]}", *under)
    record = json.loads((tmp_path / "a" / "samples.jsonl").read_text())
    assert record["guidance"]["classifier"]["path"] == str(classifier_run)
    for options, message in (
        ([path, "prompt=a unicorn"], "the classifier knows no word of the prompt 'a unicorn'"),
        ([f"prompt={PROMPTS[0]}"], "the option guidance.classifier.path has no value"),
    ):
        text = sample(tiny_run, tmp_path / "b", *options, ok=False)
        assert message in text
        assert "Traceback" not in text


def test_a_model_of_other_latents_is_not_guided(classifier_run, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "other", ignore=shutil.ignore_patterns("*.ckpt"))
    config, _ = read(tiny_run / "model.safetensors")
    model = load(tiny_run)
    with torch.no_grad():
        model.autoencoder.scale *= 1.5
    save(tmp_path / "other" / "model.safetensors", model, config)
    options = [f"guidance.classifier.path={classifier_run}", f"prompt={PROMPTS[0]}"]
    assert "was trained on latents of the encoder" in sample(tmp_path / "other", tmp_path / "x", *options, ok=False)


def test_other_files_are_no_classifiers(tiny_run, classifier_run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no finished checkpoint \(classifier.safetensors or .*\) below"):
        load_classifier(tmp_path)
    for place in (tiny_run, tiny_run / "model.safetensors"):
        with pytest.raises(
            ValueError,
            match="holds LatentDiffusion, not a classifier; train one on the data of the model .* data=shards ",
        ):
            load_classifier(place)
    with pytest.raises(ValueError, match="holds CaptionClassifier, not a latent diffusion model"):
        load(classifier_run / "classifier.safetensors")
    assert isinstance(load_classifier(classifier_run).autoencoder, Autoencoder)
