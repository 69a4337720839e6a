import fnmatch
import inspect
from types import SimpleNamespace

import hydra
import pytest
import torch
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from ldm.callback.evaluation import Evaluation
from ldm.cli.entry import MENDABLE
from ldm.config import CONFIGS, build, compose, differences, resolved
from ldm.options.arguments import parse_override, quote_texts
from ldm.training.options import SHARED
from ldm.training.rules import RULES, check_values
from ldm.training.run import train
from ldm.training.validate import check_batches, check_images
from tests import configs
from tests.configs import SHARDS
from tests.conftest import forked
from tests.training.stages import stages

EXPERIMENTS = [
    pytest.param(path.stem, marks=[] if path.stem in ("txt2img", "inpainting_big") else pytest.mark.slow)
    for path in sorted((CONFIGS / "experiment").glob("*.yaml"))
]
"""All experiments, two of them among the fast tests."""


def composed(experiment, *overrides):
    return configs.composed("train", f"experiment={experiment}", *configs.given_to(experiment), *overrides)


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_its_model_builds(experiment):
    config = composed(experiment)
    plain = resolved(config)
    for stage in plain["stage"].values():
        assert {*SHARED} <= stage.keys()
        assert not {*SHARED} & inspect.signature(get_class(stage["_target_"])).parameters.keys()
    plain["stage"] = {
        name: {option: value for option, value in stage.items() if option not in SHARED}
        for name, stage in plain["stage"].items()
    }
    for node in targets(plain):
        parameters = inspect.signature(get_class(node["_target_"])).parameters
        unknown = {key for key in node if not key.startswith("_")} - parameters.keys()
        assert not unknown, f"{node['_target_']} has no {unknown}"
    with torch.device("meta"):
        if list(config.stage) != ["autoencoder"]:
            build(resolved(config.model))
        build(resolved(config.autoencoder.network))
        for stage in config.stage.values():
            build(stage.optimizer)
            build(stage.scheduler)


ELSEWHERE = (
    *("experiment", "hparams_search", "stage", "callbacks", "optimizer", "scheduler", "debug", "mode"),
    *("encoder", "search"),  # of ldm.data.neighbors
    *("conditions", "protocol"),  # of ldm.evaluate
    "format",  # of ldm.interop.export
    "hardware",  # of ldm.plan
)
CHOICES = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONFIGS.iterdir())
    if folder.is_dir() and folder.name not in ELSEWHERE and list(folder.glob("*.yaml"))
}
"""Groups of train.py that other tests do not compose, and their choices."""


@pytest.mark.slow
@pytest.mark.parametrize("chosen", configs.one_of_each(CHOICES), ids=lambda chosen: "-".join(chosen.values()))
def test_every_choice_composes(chosen):
    extra = SHARDS if chosen["data"] in ("shards", "moments") else []
    of_models = {"caption_classifier": "classifier", "label_classifier": "cin256_classifier"}
    experiment = of_models.get(chosen["model"], "txt2img")
    options = [f"{group}={choice}" for group, choice in chosen.items() if group != "classifier"]
    options += [f"classifier={chosen['classifier']}"] * (experiment != "txt2img")
    config = resolved(compose("train", [f"experiment={experiment}", *options, *extra]))
    assert config.keys() >= chosen.keys() - {"classifier"}
    with torch.device("meta"):
        for part in (config["backbone"], config["conditioner"], config["autoencoder"]["network"]):
            build(part)
        if experiment != "txt2img":
            build(config["classifier"])


UNDER = [
    ("autoguidance", "guidance.weak.path=a"),
    ("classifier", "guidance.classifier.path=a"),
    ("low_resolution", "guidance.score.image.path=a guidance.score.image.size=8"),
    ("clip", "guidance.score.name=a"),
]


@pytest.mark.parametrize(("choice", "options"), UNDER, ids=[choice for choice, _ in UNDER])
def test_any_guidance_goes_under_another(choice, options):
    for under in ("none", "classifier_free", "autoguidance"):
        names = [f"guidance={choice}", f"guidance@guidance.guidance={under}", *options.split()]
        config = resolved(configs.composed("sample", "ckpt=x", *names))["guidance"]
        assert config["guidance"] == resolved(configs.composed("sample", f"guidance={under}"))["guidance"]
        for node in targets(config):
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            assert {key for key in node if not key.startswith("_")} <= parameters.keys()


def test_likeness_by_lpips_is_one_option():
    lpips = "{_target_:ldm.pretrained.lpips.LPIPS,vgg16:a}"
    config = compose("sample", ["ckpt=x", "guidance=low_resolution", f"guidance.score.distance={lpips}"])
    assert config.guidance.score.distance.vgg16 == "a"


def test_the_papers_text_to_image_model_has_its_parameters():
    with torch.device("meta"):
        model = build(resolved(composed("txt2img_1p4b").model))
    count = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert count["denoiser"] == pytest.approx(872.3, abs=0.05)
    assert count["denoiser"] + count["conditioner"] == pytest.approx(1454.3 - 39.1, abs=0.1)
    assert count["autoencoder"] == pytest.approx(83.65, abs=0.01)


TYPED = [
    (
        ["stage.diffusion.batch_sise=3"],
        "there is no option stage.diffusion.batch_sise; did you mean stage.diffusion.batch_size",
    ),
    (["data=shards"], "the option data.train has no value; type data.train=VALUE"),
    (
        ["stage=autoencoder_icons", "+stage.diffusion.batch_size=8"],
        "options were given for stage.diffusion, which this experiment does not have",
    ),
    (
        ["stage.diffusion.optimizer=muon"],
        "stage.diffusion.optimizer is a group, whose choice is typed optimizer@stage.diffusion.optimizer=muon",
    ),
    (["data.train=/a/0.tar", "data.train=/a/1.tar"], "data.train is given 2 times; give it once"),
    (["data=icon"], "there is no data=icon; did you mean icons? choose from icon_scenes, icons, latents"),
    (["data.size=30"], "image size 30 is not a multiple of 4"),
    (["data.source.count=5000"], "count=5000 icons asked for"),
    (["autoencoder.ckpt=/nowhere/at/all"], "no checkpoint at /nowhere/at/all"),
]
"""Mistakes that the command line shows, and one of each kind of error that a run begins with."""

BEGUN = [
    (["stage=diffusion_icons"], "the stage diffusion needs a finished autoencoder; give one, autoencoder.ckpt="),
    (["model.denoiser.schedule=cosine"], "cosine is a choice of a group of options; type schedule=cosine"),
    (["stage.diffusion.callbacks.checkpoint=null"], "stage.diffusion.callbacks.checkpoint cannot be left out"),
    (["validate_only=true"], "there is no finished model"),
    (["trainer.overfit_batches=1", "stage.diffusion.trainer.accumulate_grad_batches=2"], "use a multiple of that"),
    (["data.size=36"], "image size 36 is not a multiple of 8"),
    (["trainer.precision=bf16-true"], "trainer.precision=bf16-true cannot be; give one of 32-true, bf16-mixed"),
    (["trainer=ddp", "trainer.accelerator=gpu"], "the options trainer.* cannot be used here: "),
    (
        ["stage.diffusion.callbacks.evaluation.num_images=1"],
        "frechet_efficientnet needs at least 2 images, but stage.d",
    ),
    (["stage.diffusion.callbacks.evaluation.final_images=1"], "evaluation.final_images=1; give more"),
    (["trainer.deterministic=maybe"], "trainer.deterministic=maybe cannot be; give one of"),
    (["trainer.precision=16-mixed"], "trainer.precision=16-mixed cannot be; give one of 32-true, bf16-mixed"),
    (
        ["+trainer.limit_train_batches=0.5"],
        "trainer.limit_train_batches cannot be given, since a run sets it by itself; use stage.NAME.trainer.max_steps",
    ),
    (["data=shards", "data.train=/nowhere/{0..3}.tar", "data.val=/nowhere/4.tar"], "no shard at '/nowhere/4.tar'"),
    (
        ["stage.diffusion.batch_size=7", "stage.diffusion.trainer.accumulate_grad_batches=2"],
        "batch_size 7 is not a multiple of accumulate_grad_batches 2",
    ),
    (["conditioner=huggingface", "conditioner.name=/nowhere"], "no text encoder '/nowhere'"),
    (["alignment=repa", "alignment.encoder.name=/nowhere"], "no vision encoder '/nowhere'"),
    (["optimized_metric=acuracy"], "optimized_metric=acuracy is not measured; choose from background_accuracy"),
    (
        ["stage.diffusion.callbacks.checkpoint.best=val/fid"],
        "checkpoint.best=val/fid is not measured; choose from eval/",
    ),
    (["metric=fid", "metric.fid.extractor.weights=/nowhere"], "no Inception weights at /nowhere"),
    (["autoencoder.network.attention_levels=[7]"], "attention_levels [7] do not exist"),
    (
        ["schedule=rectified_flow"],
        "RectifiedFlowSchedule ends in pure noise, from which a prediction of the noise says nothing",
    ),
    (
        ["schedule=zero_terminal", "prediction=velocity"],
        "P2Weighting weights the loss by zero: the first step of sampling",
    ),
    (["backbone.out_channels=5"], "set backbone.out_channels=4"),
    (
        ["guidance=autoguidance", "guidance.weak.path=/nowhere"],
        "built by calling 'ldm.checkpoint.load' could not be loaded again",
    ),
    (["experiment=finetune_decoder", "data=icons"], "to fine-tune a decoder, give the autoencoder"),
]
"""Mistakes that a run finds before it begins."""


@pytest.mark.e2e
@pytest.mark.parametrize(("overrides", "message"), TYPED)
def test_mistakes_end_with_a_clear_message_before_any_training(overrides, message, places, tmp_path):
    text = forked("train.py", "experiment=txt2img", *places, f"paths.runs_dir={tmp_path}", *overrides, ok=False)
    assert message in text
    assert "Traceback" not in text
    assert "training:" not in text


@pytest.mark.e2e
@pytest.mark.parametrize(("overrides", "message"), BEGUN)
def test_a_run_raises_what_the_program_shows_as_a_clear_message_before_any_training(
    overrides, message, places, tmp_path, capfd, monkeypatch
):
    """Errors of these kinds the program shows without a traceback, as the test above sees of each kind."""
    monkeypatch.setattr("ldm.training.run.suit_hardware", lambda *_: None)  # other tests' kernels stay as they are
    config = configs.composed("train", "experiment=txt2img", places[0], f"paths.runs_dir={tmp_path}", *overrides)
    with pytest.raises(MENDABLE) as raised:
        train(config)
    error = raised.value
    assert message in str(error.__cause__ if isinstance(error, InstantiationException) else error)
    assert list(tmp_path.iterdir()) == [], "nothing was written"
    assert "training:" not in capfd.readouterr().err


IMPOSSIBLE = [
    ("stage.diffusion.batch_size=0", "a whole number, at least 1"),
    ("stage.diffusion.validate_every_n_steps=0", "a whole number, at least 1"),
    ("stage.autoencoder.trainer.gradient_clip_val=0", "a finite number, above 0, or null (no clipping)"),
    ("seed=1.5", "a whole number from 0 to 4294967295"),
    ("seed=true", "a whole number from 0"),
    ("seed=abc", "a whole number from 0"),
    ("seed=-1", "a whole number from 0"),
    ("stage.diffusion.trainer.max_steps=-1", "a whole number, at least 1"),
    ("stage.autoencoder.trainer.max_steps=0", "a whole number, at least 1"),
    ("stage.diffusion.trainer.accumulate_grad_batches=0", "a whole number, at least 1"),
    ("stage.diffusion.scheduler.warmup_steps=-1", "a whole number, at least 0"),
    ("stage.diffusion.scheduler.final=2", "at least 0, at most 1"),
    ("stage.diffusion.scheduler.cooldown=1.5", "at least 0, at most 1"),
    ("stage.diffusion.callbacks.ema.decay=1", "at least 0, below 1"),
    ("stage.diffusion.optimizer.lr=-0.001", "a finite number, above 0"),
    ("stage.diffusion.optimizer.lr=nan", "a finite number, above 0"),
    ("stage.diffusion.optimizer.betas=[0.9, 1]", "a list of two numbers, at least 0, below 1"),
    ("stage.diffusion.callbacks.checkpoint.every_n_steps=0", "a whole number, at least 1"),
    ("stage.diffusion.callbacks.power_ema.every_n_steps=0", "a whole number, at least 1"),
    ("stage.diffusion.captions_for_vocabulary=0", "a whole number, at least 1"),
    ("conditioner.drop_rate=1.5", "at least 0, at most 1"),
    ("sampler.steps=0", "a whole number, at least 1"),
    ("guidance.scale=inf", "a finite number"),
    ("data.size=0", "a whole number, at least 1"),
    ("data.workers=-1", "a whole number, at least 0"),
    ("data.crop=middle", "one of center, random"),
    ("data.source.val_fraction=0", "above 0, below 1"),
    ("trainer.devices=0", "a whole number, at least 1, -1 for all, or a list"),
    ("trainer.num_nodes=0", "a whole number, at least 1"),
    ("name=a/b", "the name of one folder, without /"),
    ("name=..", "the name of one folder"),
    ("name='  '", "the name of one folder"),
    (f"name={80 * 'ы'}", "of at most 150 bytes"),
]


@pytest.mark.parametrize(("option", "range"), IMPOSSIBLE, ids=[option[:60] for option, _ in IMPOSSIBLE])
def test_values_that_cannot_be_are_refused_first_of_all(option, range):
    name, _, value = option.partition("=")
    config = composed("txt2img")
    OmegaConf.set_struct(config, False)  # of options that another choice has
    OmegaConf.update(config, name, parse_override(quote_texts([option])[0]).value())
    with pytest.raises(ValueError, match="cannot be; give ") as error:
        check_values(resolved(config))
    assert str(error.value).startswith(f"{name}={value.strip(chr(39))}")
    assert range in str(error.value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_rule_is_of_an_option_and_allows_what_experiments_have(experiment):
    config = composed(experiment)
    check_values(resolved(config))
    config.update({"seed": 4294967295, "name": "Ночной запуск 1"})
    config.trainer = composed("txt2img", "trainer=ddp").trainer
    check_values(resolved(config))


def test_every_rule_is_of_an_option_that_there_is():
    groups = ["data=stream", "alignment=repa", "optimizer@stage.diffusion.optimizer=muon", "hparams_search=optuna"]
    configs = [
        composed("txt2img"),
        composed("classifier"),
        composed("txt2img_shards"),
        composed("txt2img", *groups, *SHARDS),
    ]
    known = {name for config in configs for name in leaves(resolved(config))}
    assert [pattern for pattern in RULES if not fnmatch.filter(known, pattern)] == []


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_what_a_run_gives_to_the_trainer_itself_cannot_be_given():
    for option, instead in (
        ("+trainer.max_steps=5", "use stage.NAME.trainer.max_steps"),
        ("+trainer.callbacks=[]", "use stage.NAME.callbacks"),
        ("trainer.max_epochs=3", "use stage.NAME.trainer.max_steps"),
        ("+stage.diffusion.trainer.devices=2", "use trainer.devices"),
        ("+stage.diffusion.trainer.val_check_interval=2", "use stage.NAME.validate_every_n_steps"),
    ):
        with pytest.raises(ValueError, match=instead):
            check_values(resolved(composed("txt2img", option)))
    with pytest.raises(ValueError, match="no option trainer.colour"):
        check_values(resolved(composed("txt2img", "+trainer.colour=red")))
    check_values(resolved(composed("txt2img", "+trainer.deterministic=true")))


def test_a_batch_that_cannot_be_shared_is_refused_with_those_that_can():
    made = list(stages(composed("autoencoder", "stage.autoencoder.batch_size=24")).values())
    check_batches(made, 4)
    with pytest.raises(
        ValueError, match="24 is not a multiple of accumulate_grad_batches 2 times 8 processes"
    ) as error:
        check_batches(made, 8)
    numbers = "use stage.autoencoder.trainer.accumulate_grad_batches=1 or 3, or stage.autoencoder.batch_size=16 or 32"
    assert numbers in str(error.value)
    with pytest.raises(ValueError, match="use stage.autoencoder.batch_size=32"):
        check_batches(made, 16)


def test_one_validation_image_is_too_few_for_a_distance():
    evaluations = [Evaluation({"a": least(2)}, num_images=2, batch_size=1, cache="")]
    check_images(SimpleNamespace(val_set=range(2)), evaluations)
    with pytest.raises(ValueError, match="measured needs at least 2 validation images, but data.val has 1"):
        check_images(SimpleNamespace(val_set=range(1)), evaluations)


def least(number):
    return SimpleNamespace(names=["measured"], least_images=number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.size=33"], "image size 33 is not a multiple of 4"),
        (
            ["stage.diffusion.batch_size=7", "stage.diffusion.trainer.accumulate_grad_batches=2"],
            "batch_size 7 is not a multiple of accumulate_grad_batches 2",
        ),
        (["weighting.gamma=-1"], "gamma is a power and not negative; got -1"),
    ],
)
def test_impossible_sizes_are_said_before_data_are_drawn(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.training.run.suit_hardware", lambda *_: None)  # other tests' kernels stay as they are
    places = [f"paths.data_dir={tmp_path}/d", f"paths.runs_dir={tmp_path}/r"]
    with pytest.raises(MENDABLE) as raised:
        train(configs.composed("train", "experiment=txt2img", *places, *options))
    error = raised.value
    assert message in str(error.__cause__ if isinstance(error, InstantiationException) else error)
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_a_classifier_without_an_autoencoder_is_refused(tmp_path):
    text = forked(
        "train.py", "experiment=classifier", f"paths.data_dir={tmp_path}", f"paths.runs_dir={tmp_path}", ok=False
    )
    assert (
        "a classifier needs the autoencoder of the model that it shall guide; give its run, autoencoder.ckpt=" in text
    )
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir()), "not even data were written"


@pytest.mark.e2e
def test_a_sweep_does_not_start_processes_within_processes(places):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=forks"]
    text = forked("train.py", "-m", "experiment=txt2img", "debug=tiny", "seed=1", *ddp, *places, ok=False)
    assert "a run of a sweep cannot start 2 processes itself" in text


@pytest.mark.e2e
def test_experiment_must_be_named():
    text = forked("train.py", ok=False)
    assert "no experiment was named; type python train.py experiment=txt2img" in text
    assert "Traceback" not in text


def test_options_set_after_a_composition_are_those_of_hydra(monkeypatch):
    """Here all configs are composed so: tests/configs.py."""
    options = [
        "experiment=txt2img",
        "data.size=64",
        "name=1e3",
        "paths.data_dir=it's, {a}",
        "data.train=[/a/{0..1}.tar]",
    ]
    options += ["stage.diffusion.optimizer.betas=[0.5,0.6]", "data=stream", "backbone.channel_mult=[1]"]
    made = compose("train", options)
    with pytest.raises(ConfigCompositionException, match="Could not override 'sed'"):
        compose("train", [*options, "sed=1"])
    monkeypatch.setattr("ldm.config.hydra_compose", hydra.compose)
    assert made == compose("train", options)


def test_differences_are_listed_by_their_full_name():
    before, after = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert list(differences(before, after)) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]
