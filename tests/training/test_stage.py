"""Stages as objects: what they own, what is left out of a config, and measuring without training."""

import ast
import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf, open_dict
from torch import nn

from ldm.callback.ema import EMA
from ldm.callback.evaluation import Evaluation
from ldm.cli.command_line import CommandLine
from ldm.cli.help import help_text
from ldm.config import CONFIGS, build, compose, resolved
from ldm.sampler.ddim import DDIM
from ldm.training.rules import check_values
from ldm.training.run import train
from ldm.training.validate import check_groups, leave_out_leftovers
from tests.configs import SHARDS, given_to
from tests.conftest import ROOT, forked
from tests.test_config import EXPERIMENTS
from tests.training.stages import built, composed, stages

CONDITIONERS = sorted(path.stem for path in (CONFIGS / "conditioner").glob("*.yaml"))
OF_THE_HUB = ("huggingface", "clip_l", "openclip_h", "flan_t5_large", "image")
DEBUG = ["default", "limit", "overfit", "profiler"]
TINY = ["experiment=txt2img", "debug=tiny", "trainer=cpu"]


def experiment(name, *overrides):
    given = ["autoencoder.ckpt=x"] if name in ("classifier", "finetune_decoder") else []
    return composed(f"experiment={name}", *given_to(name), *given, *overrides)


@pytest.mark.e2e
def test_a_finished_run_is_measured_and_not_changed(tiny_run, places, tmp_path):
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, run)
    before = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    options = [*TINY, "name=tiny", places[0], f"paths.output_dir={run}", "validate_only=true"]
    text = forked("train.py", *options, "stage.diffusion.callbacks.evaluation.final_images=6")
    assert text.count("measuring") == 2
    assert "training:" not in text
    assert {path.name: path.read_bytes() for path in run.glob("*.safetensors")} == before
    now, old = (json.loads((run / "diffusion" / name).read_text()) for name in ("results.json", "results-1.json"))
    assert now["val/loss"] == old["val/loss"]
    assert now["seconds"] == old["seconds"] > 0, "what training took"
    assert now["eval/frechet_efficientnet"] != old["eval/frechet_efficientnet"]
    (run / "model.safetensors").unlink()
    text = forked("train.py", *options, ok=False)
    assert "model.safetensors to measure; train it by the same command without validate_only=true" in text


@pytest.mark.parametrize("debug", DEBUG)
def test_debugging_says_nothing_of_networks(debug):
    """So it goes with every experiment, as those that are composed here."""
    content = OmegaConf.load(CONFIGS / "debug" / f"{debug}.yaml")
    assert set(content) <= {"trainer", "stage"}
    for stage in content.stage.values():
        assert set(stage) <= {"validate_every_n_steps", "trainer", "callbacks"}


@pytest.mark.slow
@pytest.mark.parametrize("debug", DEBUG)
@pytest.mark.parametrize("name", ["autoencoder", "classifier", "finetune_decoder", "txt2img", "inpainting_big"])
def test_debugging_goes_with_experiments_of_each_kind_and_changes_no_network(name, debug):
    plain, changed = experiment(name), experiment(name, f"debug={debug}")
    before, after = resolved(plain), resolved(changed)
    check_values(after)
    for part in ("model", "autoencoder", "data"):
        assert before[part] == after[part], part
    assert list(plain.stage) == list(changed.stage)
    for before, after in zip(stages(plain).values(), stages(changed).values()):
        assert before.steps > after.steps


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tiny_goes_with_every_experiment(name, tmp_path):
    config = experiment(name, "debug=tiny", f"paths.data_dir={tmp_path}")
    check_values(resolved(config))
    assert [stage.steps for stage in stages(config).values()] == [20] * len(config.stage)
    model = build(resolved(config.model))
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]  # as large as there are classes
    frozen = [part for part in getattr(model, "conditioner", model).parameters() if not part.requires_grad]
    others = sum(part.weight.numel() for part in tables) + sum(part.numel() for part in frozen)
    assert sum(part.numel() for part in model.parameters()) - others < 900_000
    build(config.data) if "source" in config.data else None


@pytest.mark.slow
@pytest.mark.parametrize("choice", CONDITIONERS)
def test_every_conditioner_goes_with_tiny(choice):
    """The denoiser gets a condition of the widths that it was built for, whatever is to be made smaller."""
    alone = ["backbone.pool_tokens=false"] if choice == "size" else []  # which gives no tokens
    config = composed(*TINY, f"conditioner={choice}", *alone)
    check_values(resolved(config))
    model = build(resolved(config.model))
    if choice in OF_THE_HUB:  # whose encoder is loaded, so that its width is not for us to choose
        assert model.conditioner.width == compose("train", [TINY[0], f"conditioner={choice}"]).conditioner.width
        return
    tables = [part for part in model.conditioner.modules() if isinstance(part, nn.Embedding)]
    learned = sum(part.numel() for part in model.conditioner.parameters() if part.requires_grad)
    assert learned - sum(part.weight.numel() for part in tables) < 200_000
    model.conditioner.prepare([{"caption": [text]} for text in ("a red heart", "a blue cat")])
    fields = {
        "caption": ["a red heart"],
        "image": torch.zeros(1, 3, 32, 32),
        "label": torch.tensor([3]),
        "boxes": torch.tensor([[[3, 0.1, 0.1, 0.5, 0.5]]]),
        "segmentation": torch.zeros(1, 32, 32, dtype=torch.long),
        "low_resolution": torch.zeros(1, 3, 8, 8),
        "mask": torch.ones(1, 1, 32, 32),
        "depth": torch.zeros(1, 1, 32, 32),
        "neighbors": torch.zeros(1, 5, getattr(model.conditioner, "width", None) or 1),
    }
    model.eval().sample(fields, sampler=DDIM(1))
    for size in ("width", "vector_width"):
        assert getattr(model.conditioner, size, None) == resolved(config.conditioner).get(size)


def test_tiny_makes_a_text_transformer_smaller_wherever_it_is_and_options_still_count():
    parts = "conditioner@conditioner.parts.text"
    config = composed(*TINY, "conditioner=text_and_size", "conditioner.parts.text.heads=4")
    assert [config.conditioner.parts.text[name] for name in ("width", "depth", "heads")] == [32, 1, 4]
    assert config.backbone.context_width == 32
    config = composed(*TINY, "conditioner=text_and_size", f"{parts}=huggingface")
    assert config.backbone.context_width == 768, "an encoder that is loaded has its own width"
    assert composed(TINY[0], "debug=limit", "conditioner=transformer", "name=x").conditioner.width == 512
    assert "debug@" not in help_text("train", CommandLine((), tuple(TINY)))


def test_what_is_left_over_is_no_option_unless_it_was_typed():
    config = compose("train", [*TINY, "stage=autoencoder_icons", "data=shards", *SHARDS])
    assert "batch_size" in config.stage.diffusion
    assert "count" in config.data.source
    leave_out_leftovers(config, ["stage=autoencoder_icons"])
    assert list(config.stage) == ["autoencoder"]
    assert "source" not in config.data
    config = compose("train", [*TINY, "autoencoder.network._target_=ldm.nn.blocks.Downsample"])
    assert "blocks" in config.autoencoder.network
    with pytest.raises(
        ValueError, match=r"autoencoder.network.groups is no option of ldm.nn.blocks.Downsample, which was"
    ):
        leave_out_leftovers(config, ["autoencoder.network.groups=4"])
    leave_out_leftovers(config, [])
    assert "blocks" not in config.autoencoder.network, "debug=tiny says it for the network of KL autoencoders"
    for option, place in (
        ("stage.classifier.batch_size=4", "stage.classifier"),
        ("data.source.count=3", "data.source"),
    ):
        config = compose("train", [*TINY, "data=shards", *SHARDS])
        with pytest.raises(ValueError, match=f"options were given for {place}, which"):
            leave_out_leftovers(config, [option])


@pytest.mark.parametrize(
    ("experiment", "chosen", "left_out"),
    [
        ("class_icons", ["conditioner=unconditional"], ["num_classes", "width", "names"]),
        ("class_icons", ["conditioner=transformer_icons"], ["num_classes", "names"]),
        ("class_icons", ["conditioner=label"], []),
        ("cin256", ["sampler=euler", *SHARDS], ["eta"]),
    ],
)
def test_what_an_experiment_says_for_a_part_that_was_exchanged_is_left_out(experiment, chosen, left_out):
    config = compose("train", [f"experiment={experiment}", *chosen])
    group = chosen[0].partition("=")[0]
    said = leave_out_leftovers(config, chosen, experiment)
    assert {name for name in said if name.startswith(f"{group}.")} == {f"{group}.{name}" for name in left_out}
    build(config[group])
    build(config.model[group])


def test_an_option_that_was_typed_for_a_part_that_does_not_have_it_is_refused():
    chosen = ["conditioner=unconditional", "conditioner.num_classes=5"]
    config = compose("train", ["experiment=class_icons", *chosen])
    with pytest.raises(
        ValueError, match=r"conditioner.num_classes is no option of ldm.conditioner.unconditional.Uncond"
    ):
        leave_out_leftovers(config, chosen, "class_icons")


def test_a_choice_at_the_place_of_its_options_is_refused_with_the_right_form():
    for option, form in (
        ("stage.autoencoder.scheduler=cosine", "scheduler@stage.autoencoder.scheduler=cosine"),
        ("stage.diffusion.callbacks=none", "callbacks@stage.diffusion.callbacks=none"),
        ("model.loss.weighting=snr", "type weighting=snr"),
    ):
        with pytest.raises(ValueError, match=form):
            check_groups(resolved(composed(*TINY, option)))
    check_groups(resolved(composed(*TINY, "scheduler@stage.diffusion.scheduler=cosine", "tags=[none]")))


@pytest.mark.e2e
def test_callbacks_may_be_left_out_but_for_what_a_run_needs(tiny_run, places):
    options = [*TINY, f"autoencoder.ckpt={tiny_run}", *places]
    every = built("diffusion", composed(*options), tiny_run)
    assert {"evaluation", "power_ema", "progress", "learning_rate", "step_seed", "checkpoint"} < every.callbacks.keys()
    assert isinstance(list(every.callbacks.values())[-1], EMA), (
        "it puts the weights back after all others have used them"
    )
    few = built("diffusion", composed(*options, "callbacks@stage.diffusion.callbacks=none"), tiny_run)
    assert {"step_seed", "checkpoint", "ema"} < few.callbacks.keys()
    assert not any(isinstance(callback, Evaluation) for callback in few.callbacks.values())
    assert few.left_out == (
        "the stage diffusion runs without the callbacks reconstructions, evaluation, power_ema; "
        "it keeps learning_rate, throughput, curves, compile, activation_checkpointing, threads, progress, step_seed, ema, "
        "checkpoint"
    )
    assert every.left_out is None
    bare = stages(composed(*options, "stage.diffusion.callbacks.ema=null"), tiny_run)["diffusion"]
    assert bare.left_out.startswith("the stage diffusion runs without the callbacks ema; it keeps")
    assert few.callbacks["checkpoint"].every_n_steps == 5
    assert few.callbacks["checkpoint"].folder == tiny_run / "diffusion" / "checkpoints"


def test_a_missing_text_encoder_is_said_before_data_are_written(tmp_path):
    config = [*TINY, "conditioner=huggingface", f"conditioner.name={tmp_path / 'clip'}", f"paths.runs_dir={tmp_path}"]
    config = compose("train", [*config, f"paths.data_dir={tmp_path / 'data'}"])
    with pytest.raises(FileNotFoundError, match="no text encoder .*clip': it is neither a folder on this machine"):
        train(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_csv_is_always_among_the_loggers(tiny_run, places):
    options = [*TINY, f"autoencoder.ckpt={tiny_run}", "tags=[paper,second]", *places]
    for choice, kinds in (
        ("[csv]", ["CSVLogger"]),
        ("csv", ["CSVLogger"]),
        ("[]", ["CSVLogger"]),
        ("wandb", ["CSVLogger", "WandbLogger"]),
        ("[csv,wandb]", ["CSVLogger", "WandbLogger"]),
    ):
        loggers = built("diffusion", composed(*options, f"logger={choice}"), tiny_run).loggers
        assert [type(logger).__name__ for logger in loggers] == kinds, choice
        assert loggers[0].log_dir == str(tiny_run / "diffusion" / "logs")
    assert loggers[-1]._wandb_init["tags"] == ["paper", "second"]
    assert loggers[-1]._wandb_init["name"] == "tiny-diffusion"


@pytest.mark.e2e
def test_tensorboard_writes_into_the_folder_of_the_stage(tiny_run, places):
    pytest.importorskip("tensorboard")
    config = composed(*TINY, f"autoencoder.ckpt={tiny_run}", "logger=[csv,tensorboard]", *places)
    loggers = built("diffusion", config, tiny_run).loggers
    assert loggers[-1].log_dir == str(tiny_run / "diffusion" / "tensorboard")


def test_a_scheduler_of_torch_is_given_by_its_target():
    target = "{_target_:torch.optim.lr_scheduler.PolynomialLR,_partial_:true,power:2.0}"
    config = composed(
        "experiment=txt2img_shards", *SHARDS, "~stage.diffusion.scheduler", f"+stage.diffusion.scheduler={target}"
    )
    stage = stages(config)["diffusion"]
    assert not stage.can_be_lengthened
    assert build(stage.scheduler)(torch.optim.SGD([torch.ones(1)], 1.0)).power == 2.0


def test_local_settings_are_optional():
    assert not (CONFIGS / "local").exists() or compose("train", TINY)
    assert "local" not in compose("train", TINY)


def test_every_stage_says_the_options_that_all_have():
    """In the help, with a value; where a config leaves one out, an error says which."""
    text = help_text("train", CommandLine((), ("experiment=txt2img",)))
    for stage in ("autoencoder", "diffusion"):
        for option in ("batch_size", "validate_every_n_steps", "trainer.max_steps", "optimizer.lr"):
            assert f"  stage.{stage}.{option}=" in text
        assert f"  stage.{stage}.scheduler." in text
        assert f"  stage.{stage}.callbacks.ema.decay=" in text
    assert "  stage.autoencoder.statistics_batches=" in text
    assert "  stage.diffusion.captions_for_vocabulary=" in text
    config = composed(*TINY)
    with open_dict(config):
        del config.stage.diffusion["batch_size"], config.stage.diffusion["trainer"]
    with pytest.raises(ValueError, match=r"stage.diffusion lacks trainer, batch_size, which every stage has"):
        stages(config)


def test_no_stage_is_known_by_its_name():
    """Nothing compares with, looks up or matches a stage's name, and no task or stage is asked for its class."""
    names = {"autoencoder", "diffusion", "classifier"}

    def known(node):
        match node:
            case ast.Compare() | ast.MatchValue():
                return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            case ast.Subscript(value=ast.Name(id="stage" | "stages") | ast.Attribute(attr="stage" | "stages")):
                return {part.value for part in ast.walk(node.slice) if isinstance(part, ast.Constant)}
            case ast.Attribute(value=ast.Name(id="stage" | "stages") | ast.Attribute(attr="stage" | "stages")):
                return {node.attr}
            case ast.Dict():
                return (
                    {key.value for key in node.keys if isinstance(key, ast.Constant)} if len(node.keys) > 1 else set()
                )
        return set()

    def is_asked(node):
        is_test = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        return is_test and any(kind in ast.unparse(node.args[1]) for kind in ("Task", "Stage"))

    found = []
    for folder in ("training", "task", "callback", "cli", "options", "optim", "ema"):
        for file in (ROOT / "ldm" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if names & {value for value in known(node) if isinstance(value, str)} or is_asked(node):
                    found.append(f"{folder}/{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
