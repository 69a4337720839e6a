"""The same prompts with the same noise at each evaluation, for models of each kind."""

import pathlib

import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException

from ldm.callback.fixed_prompts import FixedPrompts
from ldm.conditioner.composite import Composite
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.config import build, resolved
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.training.run import train
from ldm.training.validate import check_prompts
from tests.conditioner.small import LAYOUT
from tests.conftest import forked, scramble
from tests.processes.test_ranks import connected
from tests.ranks import on_two_ranks
from tests.training.stages import built, composed

TINY = ["debug=tiny", "trainer=cpu"]
EVALUATION = "stage.diffusion.callbacks.evaluation"


@pytest.fixture(scope="module")
def label_model():
    torch.manual_seed(0)
    config = composed("experiment=class_icons", *TINY, "conditioner.drop_rate=0.1")
    model = scramble(build(resolved(config.model))).eval()
    with torch.no_grad():  # so that labels show
        for part in model.conditioner.parameters():
            part.mul_(100.0)
        model.autoencoder.last_layer().mul_(50.0)
    return model


def written(folder, *lines, name="p.jsonl"):
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def draw(model, file, guidance=None, batch_size=2, trainer=None):
    prompts = FixedPrompts(file, guidance=guidance, sampler=None, batch_size=batch_size)
    prompts.check(model)
    trainer = trainer or pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return prompts.draw(trainer, model)


LABELS = ['{"label": 1}', "", '{"label": 2, "seed": 9}', '{"label": 3}']


def test_images_are_those_of_their_line_with_a_guidance_of_their_own(label_model, tmp_path):
    fields, seeds = {"label": torch.tensor([1, 2, 3])}, [0, 9, 2]
    file = written(tmp_path, *LABELS)
    own = draw(label_model, file)
    torch.testing.assert_close(own, label_model.sample(fields, seeds=seeds), rtol=1e-4, atol=1e-4)
    strong = ClassifierFreeGuidance(4.5)
    guided = draw(label_model, file, strong)
    expected = label_model.sample(fields, seeds=seeds, guidance=strong)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)
    assert float((own - guided).abs().max()) > 1e-2
    assert float(own.std()) > 1e-2


def test_captions_say_what_each_line_does(tmp_path):
    boxes = '[{"label": 1, "box": [0, 0, 0.5, 1]}, {"name": "sea lion", "box": [0.5, 0, 1, 1]}]'
    lines = ['{"prompt": "a\\ncat", "negative": "grey"}', '{"label": 2}', '{"prompt": "a dog", "label": "heart"}']
    lines += [f'{{"layout": {boxes}}}', '{"layout": []}']
    prompts = FixedPrompts(written(tmp_path, *lines), guidance=None, sampler=None, batch_size=1)
    names = ["heart", "cat", "sea lion"]
    conditioners = [LabelConditioner(3, width=8, names=names), LayoutConditioner(**LAYOUT, names=names)]
    said = prompts.captions(Composite(conditioners))
    assert said[:3] == ["a cat; negative: grey", "sea lion", "a dog; heart"]
    assert said[3:] == ["layout cat [0, 0, 0.5, 1], sea lion [0.5, 0, 1, 1]", "layout []"]
    assert prompts.captions(Composite([LabelConditioner(3, width=8)]))[1] == "class 2"


def test_two_processes_share_the_work_and_draw_the_same(label_model, tmp_path):
    file = written(tmp_path, *LABELS)
    whole = draw(label_model, file)

    def work(rank):
        made = []
        sample = label_model.sample
        label_model.sample = lambda fields, **options: made.append(len(options["seeds"])) or sample(fields, **options)
        found = draw(label_model, file, batch_size=1, trainer=connected())
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
        assert sum(made) == (2, 1)[rank]

    for code, output in on_two_ranks(work):
        assert code == 0, output


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["a red heart"], "label is missing"),
        (['{"label": 1}', '{"layout": []}'], "for 00001.png label is missing"),
        (['{"label": 100000}'], "100000"),
        (['{"label": 1, "layout": []}'], "layout would change nothing"),
        (['{"label": "unheard of"}'], "for 00000.png"),
    ],
)
def test_conditions_that_the_model_does_not_take_are_refused(label_model, tmp_path, lines, error):
    file = written(tmp_path, *lines, name="p.jsonl" if "{" in lines[0] else "p.txt")
    with pytest.raises(ValueError, match=rf"evaluation.prompts={file}: .*{error}"):
        draw(label_model, file)


def test_a_negative_prompt_needs_guidance_that_takes_one(tmp_path):
    file = written(tmp_path, '{"prompt": "a red heart", "negative": "a cat"}')
    options = ["experiment=txt2img", *TINY, "guidance=none", f"{EVALUATION}.prompts={file}"]
    with pytest.raises(ValueError, match="negative= is what classifier-free guidance"):
        check_prompts([built("diffusion", composed(*options), tmp_path)])
    check_prompts(
        [built("diffusion", composed(*options, f"guidance@{EVALUATION}.prompts_guidance=classifier_free"), tmp_path)]
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [(None, "there is no file prompts="), ("\n \n", "no prompts in"), ('{"label": 1}\n', "prompt is missing")],
)
def test_mistakes_are_reported_before_anything_is_written(tmp_path, text, error):
    file = tmp_path / "p.jsonl"
    if text is not None:
        file.write_text(text)
    places = [f"paths.data_dir={tmp_path / 'data'}", f"paths.runs_dir={tmp_path / 'runs'}"]
    with pytest.raises((ValueError, InstantiationException), match=error):
        train(composed("experiment=txt2img", *TINY, f"{EVALUATION}.prompts={file}", *places))
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.e2e
def test_a_run_draws_them_at_each_evaluation(tiny_run, places, tmp_path):
    file = written(tmp_path, "a red heart on a white background", "a blue cat on a black background", name="p.txt")
    forked(
        "train.py", "experiment=txt2img", *TINY, f"autoencoder.ckpt={tiny_run}", places[0], f"paths.runs_dir={tmp_path}",
        f"callbacks.evaluation.prompts={file}", f"guidance@{EVALUATION}.prompts_guidance=classifier_free",
        "callbacks.evaluation.prompts_guidance.scale=4.5", "name=x",
    )  # fmt: skip
    pictures = tmp_path / "x" / "diffusion" / "pictures"
    found = [(pictures / f"{name}-{step:08d}.png").read_bytes() for name in ("prompts", "samples") for step in (10, 20)]
    assert len(set(found)) == 4
    assert (pictures / "prompts-00000010.txt").read_text() == pathlib.Path(file).read_text()
