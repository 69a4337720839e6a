import fnmatch
import inspect
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from ldm import sweep
from ldm.arguments import job_name, quote_texts
from ldm.callback.evaluation import Evaluation
from ldm.check import check_batches, check_images, idle_devices
from ldm.config import CONFIGS, build, compose, differences, resolved, unreadable
from ldm.rules import RULES, check_values
from ldm.sweep import folder_name, remaining_trials
from tests.conftest import forked

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
SHARDS = ["data.train=/data/{000..099}.tar", "data.val=/data/100.tar"]


def composed(experiment, *overrides):
    shards = [] if experiment in ("txt2img", "classifier") else SHARDS
    return compose("train", [f"experiment={experiment}", *shards, *overrides])


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_its_model_builds(experiment):
    config = composed(experiment)
    for node in targets(resolved(config)):
        parameters = inspect.signature(get_class(node["_target_"])).parameters
        unknown = {key for key in node if not key.startswith("_")} - parameters.keys()
        assert not unknown, f"{node['_target_']} has no {unknown}"
    with torch.device("meta"):
        if "autoencoder" not in config.task or "diffusion" in config.task:
            build(resolved(config.model))
        build(resolved(config.autoencoder.network))
        for stage in config.task.values():
            build(stage.optimizer)
            build(stage.learning_rate)


GROUPS = sorted(
    (path.parent.name, path.stem)
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "hparams_search", "task", "callbacks", "optimizer", "debug")
)


@pytest.mark.parametrize(("group", "choice"), GROUPS)
def test_every_choice_composes(group, choice):
    extra = SHARDS if (group, choice) == ("data", "shards") else []
    experiment = "classifier" if group == "classifier" or choice == "word_classifier" else "txt2img"
    config = resolved(compose("train", [f"experiment={experiment}", "metric=offline", f"{group}={choice}", *extra]))
    assert group in config
    with torch.device("meta"):
        if group in ("backbone", "conditioner", "classifier"):
            build(config[group])
        if group == "autoencoder":
            build(config[group]["network"])


UNDER = [
    ("autoguidance", "guidance.weak.path=a"),
    ("classifier", "guidance.classifier.path=a"),
    ("likeness", "guidance.score.image.path=a guidance.score.image.size=8"),
    ("clip", "guidance.score.name=a"),
]


@pytest.mark.parametrize(("choice", "options"), UNDER, ids=[choice for choice, _ in UNDER])
def test_any_guidance_goes_under_another(choice, options):
    for under in ("none", "classifier_free", "autoguidance"):
        names = [f"guidance={choice}", f"guidance@guidance.guidance={under}", *options.split()]
        config = resolved(compose("sample", ["ckpt=x", *names]))["guidance"]
        assert config["guidance"] == resolved(compose("sample", [f"guidance={under}"]))["guidance"]
        for node in targets(config):
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            assert {key for key in node if not key.startswith("_")} <= parameters.keys()


def test_likeness_by_lpips_is_one_option():
    lpips = "{_target_:ldm.autoencoder.perceptual.LPIPS,vgg16:a,linear:b}"
    config = compose("sample", ["ckpt=x", "guidance=likeness", f"guidance.score.distance={lpips}"])
    assert config.guidance.score.distance.linear == "b"


def test_the_papers_text_to_image_model_has_its_parameters():
    with torch.device("meta"):
        model = build(resolved(composed("txt2img_1p4b").model))
    count = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    assert count["denoiser"] == pytest.approx(872.3, abs=0.05)
    assert count["denoiser"] + count["conditioner"] == pytest.approx(1454.3 - 39.1, abs=0.1)
    assert count["autoencoder"] == pytest.approx(83.65, abs=0.01)


def test_help_is_readable():
    text = forked("train.py", "--help")
    assert "python train.py experiment=txt2img" in text
    assert f"experiment: {', '.join(EXPERIMENTS)}" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.diffusion.stepz=3"], "there is no option task.diffusion.stepz; did you mean task.diffusion.steps"),
        (["data=shards"], "the option data.train has no value; type data.train=VALUE"),
        (["task=autoencoder"], "options were given for the stage 'diffusion'"),
        (["data.train=/a/0.tar", "data.train=/a/1.tar"], "data.train is given 2 times; give it once"),
        (["data=icon"], "Could not find 'data/icon'"),
        (["data.size=36"], "image side 36 gives latents of side 9"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true cannot be; give one of 32-true, bf16-mixed"),
        (["trainer=ddp", "trainer.accelerator=gpu"], "the options trainer.* cannot be used here: "),
        (
            ["task.diffusion.callbacks.evaluation.num_images=1"],
            "frechet_efficientnet needs at least 2 images, but task.d",
        ),
        (["task.diffusion.callbacks.evaluation.final_images=1"], "evaluation.final_images=1; give more"),
        (["trainer.deterministic=maybe"], "trainer.deterministic=maybe cannot be; give one of"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed cannot be; give one of 32-true, bf16-mixed"),
        (
            ["+trainer.limit_train_batches=0.5"],
            "trainer.limit_train_batches cannot be given, since a run sets it by itself; use task.STAGE.steps",
        ),
        (["data.size=30"], "image side 30 is not a multiple of 4"),
        (["data.source.count=5000"], "count=5000 icons asked for"),
        (["autoencoder.ckpt=/nowhere/at/all"], "no checkpoint at /nowhere/at/all"),
        (["data=shards", "data.train=/nowhere/{0..3}.tar", "data.val=/nowhere/4.tar"], "no shard at '/nowhere/4.tar'"),
        (
            ["task.diffusion.batch_size=7", "task.diffusion.accumulate=2"],
            "batch_size 7 is not a multiple of accumulate 2",
        ),
        (["conditioner=huggingface", "conditioner.name=/nowhere"], "no text encoder '/nowhere'"),
        (["alignment=repa", "alignment.encoder.name=/nowhere"], "no vision encoder '/nowhere'"),
        (["optimized_metric=acuracy"], "optimized_metric=acuracy is not measured; choose from background_accuracy"),
        (["task.diffusion.checkpoints.best=val/fid"], "checkpoints.best=val/fid is not measured; choose from eval/"),
        (["metric=fid", "metric.fid.extractor.weights=/nowhere"], "no Inception weights at /nowhere"),
        (["autoencoder.network.attention_levels=[7]"], "attention_levels [7] do not exist"),
        (
            ["schedule=rectified_flow"],
            "RectifiedFlow ends in pure noise, from which a prediction of the noise says nothing",
        ),
        (["schedule=zero_terminal", "prediction=velocity"], "P2 weights the loss by zero: the first step of sampling"),
        (["backbone.out_channels=5"], "set backbone.out_channels=4"),
        (
            ["guidance=autoguidance", "guidance.weak.path=/nowhere"],
            "built by calling 'ldm.checkpoint.load' could not be loaded again",
        ),
        (["experiment=finetune_decoder", "data=icons"], "to fine-tune a decoder, give the autoencoder"),
    ],
)
def test_mistakes_end_with_a_clear_message_before_any_training(overrides, message, places, tmp_path):
    text = forked("train.py", "experiment=txt2img", *places, f"paths.runs_dir={tmp_path}", *overrides, ok=False)
    assert message in text
    assert "Traceback" not in text
    assert "training:" not in text


IMPOSSIBLE = [
    ("task.diffusion.batch_size=0", "a whole number, at least 1"),
    ("task.diffusion.validate_every_n_steps=0", "a whole number, at least 1"),
    ("task.autoencoder.gradient_clip=0", "a finite number, above 0, or null (no clipping)"),
    ("seed=1.5", "a whole number from 0 to 4294967295"),
    ("seed=true", "a whole number from 0"),
    ("seed=abc", "a whole number from 0"),
    ("seed=-1", "a whole number from 0"),
    ("task.diffusion.steps=-1", "a whole number, at least 1"),
    ("task.autoencoder.steps=0", "a whole number, at least 1"),
    ("task.diffusion.accumulate=0", "a whole number, at least 1"),
    ("task.diffusion.learning_rate.warmup_steps=-1", "a whole number, at least 0"),
    ("task.diffusion.learning_rate.final=2", "at least 0, at most 1"),
    ("task.diffusion.ema_decay=1", "at least 0, below 1"),
    ("task.diffusion.optimizer.lr=-0.001", "a finite number, above 0"),
    ("task.diffusion.optimizer.lr=nan", "a finite number, above 0"),
    ("task.diffusion.optimizer.betas=[0.9, 1]", "a list of two numbers, at least 0, below 1"),
    ("task.diffusion.checkpoints.every_n_steps=0", "a whole number, at least 1"),
    ("task.diffusion.callbacks.power_ema.every_n_steps=0", "a whole number, at least 1"),
    ("task.diffusion.captions_for_vocabulary=0", "a whole number, at least 1"),
    ("conditioner.drop_rate=1.5", "at least 0, at most 1"),
    ("sampler.steps=0", "a whole number, at least 1"),
    ("guidance.scale=inf", "a finite number"),
    ("data.size=0", "a whole number, at least 1"),
    ("data.workers=-1", "a whole number, at least 0"),
    ("data.crop=middle", "one of center, random"),
    ("data.source.val_share=0", "above 0, below 1"),
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
    with pytest.raises(ValueError, match="cannot be; give ") as error:
        check_values(resolved(composed("txt2img", option)))
    assert str(error.value).startswith(f"{name}={value.strip(chr(39))}")
    assert range in str(error.value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_rule_is_of_an_option_and_allows_what_experiments_have(experiment):
    check_values(resolved(composed(experiment)))
    check_values(resolved(composed(experiment, "trainer=ddp", "seed=4294967295", "name=Ночной запуск 1")))


def test_every_rule_is_of_an_option_that_there_is():
    groups = ["data=stream", "alignment=repa", "optimizer@task.diffusion.optimizer=muon", "hparams_search=optuna"]
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
    for option, instead in (("max_steps=5", "use task.STAGE.steps"), ("callbacks=[]", "use task.STAGE.callbacks")):
        with pytest.raises(ValueError, match=instead):
            check_values(resolved(composed("txt2img", f"+trainer.{option}")))
    with pytest.raises(ValueError, match="no option trainer.colour"):
        check_values(resolved(composed("txt2img", "+trainer.colour=red")))
    check_values(resolved(composed("txt2img", "+trainer.deterministic=true")))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_recipe_divides_by_the_usual_numbers_of_processes(experiment):
    config = composed(experiment)
    for world in (1, 2, 4, 8, 16):
        check_batches(config, list(config.task), world)


def test_a_batch_that_cannot_be_shared_is_refused_with_those_that_can():
    config = composed("autoencoder", "task.autoencoder.batch_size=24", "task.autoencoder.accumulate=2")
    check_batches(config, ["autoencoder"], 4)
    with pytest.raises(ValueError, match="batch_size 24 is not a multiple of accumulate 2 times 8 processes") as error:
        check_batches(config, ["autoencoder"], 8)
    assert "use task.autoencoder.accumulate=1 or 3, or task.autoencoder.batch_size=16 or 32" in str(error.value)
    with pytest.raises(ValueError, match="use task.autoencoder.batch_size=32"):
        check_batches(config, ["autoencoder"], 16)


def test_idle_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    one = composed("txt2img", "trainer=gpu")
    assert idle_devices(one) == "this machine has 8 GPUs, of which 1 will be used; to use all, stop and add trainer=ddp"
    for options in (["trainer=ddp"], ["trainer=cpu"], ["trainer=gpu", "trainer.devices=8"]):
        assert idle_devices(composed("txt2img", *options)) is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert idle_devices(one) is None


def test_one_validation_image_is_too_few_for_a_distance():
    callbacks = {"diffusion": [SimpleNamespace(), Evaluation({"a": least(2)}, num_images=2, batch_size=1, cache="")]}
    check_images(SimpleNamespace(val_set=range(2)), callbacks)
    with pytest.raises(ValueError, match="measured needs at least 2 validation images, but data.val has 1"):
        check_images(SimpleNamespace(val_set=range(1)), callbacks)


def least(number):
    return SimpleNamespace(names=["measured"], least_images=number)


def test_impossible_sizes_are_said_before_data_are_drawn(tmp_path):
    for option in ("data.size=33", "task.diffusion.batch_size=7 task.diffusion.accumulate=2", "weighting.gamma=-1"):
        places = [f"paths.data_dir={tmp_path}/d", f"paths.runs_dir={tmp_path}/r"]
        text = forked("train.py", "experiment=txt2img", *places, *option.split(), ok=False)
        assert "error: " in text
        assert not list(tmp_path.iterdir()), option


def test_a_classifier_without_an_autoencoder_is_refused(tmp_path):
    text = forked(
        "train.py", "experiment=classifier", f"paths.data_dir={tmp_path}", f"paths.runs_dir={tmp_path}", ok=False
    )
    assert (
        "a classifier needs the autoencoder of the model that it shall guide; give its run, autoencoder.ckpt=" in text
    )
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir()), "not even data were written"


def test_a_sweep_does_not_start_processes_within_processes(places):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=forks"]
    text = forked("train.py", "-m", "experiment=txt2img", "debug=tiny", "seed=1", *ddp, *places, ok=False)
    assert "a run of a sweep cannot start 2 processes itself" in text


def test_experiment_must_be_named():
    text = forked("train.py", ok=False)
    assert "no experiment was named; type python train.py experiment=txt2img" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "text",
    ["a cat, a dog: (two) {friends} = [love]", "it's 5 o'clock", "/data/{000..099}.tar", "plain", "50% off"]
    + [
        "[abstract] red",
        '"red" heart',
        "a heart \\",
        "a ${x} heart",
        '["x", "y"]',
        "it\\'s",
        "'a' or 'b'",
        "\\\\' ${y}",
    ],
)
def test_texts_reach_the_config_as_they_were_typed(text):
    config = compose("sample", ["ckpt=x", f"prompt={text}"])
    assert config.prompt == text
    assert quote_texts(quote_texts([f"prompt={text}"])) == quote_texts([f"prompt={text}"])


def test_lists_and_other_options_are_left_to_hydra():
    arguments = ["seed=1,2", "data.train=['/a/{0..1}.tar','/b.tar']", "prompt='quoted already'", "prompts=null"]
    assert quote_texts(arguments) == arguments


def test_differences_are_listed_by_their_full_name():
    before, after = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert list(differences(before, after)) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]


NAMES = [
    "Ночной запуск",
    "a=b",
    "my data (1)",
    "[2023]",
    "{a}",
    "/home/Ива́н/ab, c",
    "2024",
    "it's",
    "日本",
    "[a",
    "x\\",
]


@pytest.mark.parametrize("text", NAMES)
def test_names_and_folders_may_have_any_letters(text):
    options = ["name", "paths.data_dir", "paths.runs_dir", "run_dir", "data.cache", "autoencoder.ckpt"]
    options += ["data.source.folder", "conditioner.name", "logger.wandb.project", "metric.fid.extractor.weights"]
    groups = ["experiment=txt2img", "conditioner=huggingface", "logger=wandb", "metric=fid"]
    config = compose("train", [*groups, *(f"{option}={text}" for option in options)])
    assert [OmegaConf.select(config, option) for option in options] == [text] * len(options)
    pack = ["images", "captions", "out", "image_column", "caption_column"]
    config = compose("pack", [f"{option}={text}" for option in pack])
    assert [OmegaConf.select(config, option) for option in pack] == [text] * len(pack)
    assert compose("ema", [f"run={text}", "length=0.1"]).run == text
    encode = compose("encode", [f"out={text}", "autoencoder.ckpt=a", f"data.train={text}/a.tar", "data.val=b"])
    assert (encode.out, encode.data.train) == (text, f"{text}/a.tar")


def test_folders_may_be_interpolated():
    config = compose("train", ["experiment=txt2img", "data.cache=${paths.data_dir}/mine"])
    assert config.data.cache == "data/mine"


UNREADABLE = [
    (["prompt=a", "red", "heart"], 'is no option; where it belongs to prompt, put the whole in quotes: prompt="a red heart"'),
    (["experiment=txt2img", "name=my", "run"], 'put the whole in quotes: name="my run"'),
    (["seed=1", "prompt=it's", "red", "n=2"], 'in quotes: prompt="it\'s red"'),
    (["images=my", "photos"], 'images="my photos"'),
    (["red"], "'red' is not of the form option=value"),
    (["optimized_metric=a=b"], "optimized_metric=a=b cannot be read; if its value is a text, put that in quotes of both kinds: "
     "optimized_metric=\"'a=b'\""),
    (["logger.wandb.job_type=ночь $1"], "put that in quotes of both kinds: "),
    (["имя=1"], "имя=1 cannot be read: 'имя' is no name of an option"),
    (["=1"], "=1 cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), UNREADABLE, ids=[words[-1] for words, _ in UNREADABLE])
def test_what_cannot_be_read_is_said_with_what_to_type(words, message):
    assert message in unreadable(quote_texts(words))


def test_flags_of_hydra_are_no_options():
    assert unreadable(["-m", "seed=1,2", "--cfg", "job", "~alignment", "--config-dir", "mine"]) is None


@pytest.mark.parametrize(
    "program", [["train.py"], ["sample.py"], ["-m", "ldm.data.pack"], ["-m", "ldm.data.encode"], ["-m", "ldm.ema"]]
)
def test_every_program_says_how_to_quote(program):
    text = forked(*program, "out=a", "red", "heart", ok=False)
    assert "error: 'red' is no option; where it belongs to out, put the whole in quotes: out=\"a red heart\"\n" in text
    assert "Traceback" not in text


def test_names_of_jobs_are_safe_and_differ():
    assert job_name(["seed=1", "lr=0.001"]) == "lr=0.001,seed=1" == job_name(["lr=0.001", "seed=1"])
    assert job_name([]) == "defaults"
    many = [job_name([f"data.train='/a b/{{0..{number}}}.tar'", "x=" + 300 * "ы"]) for number in range(20)]
    assert len(set(many)) == 20
    assert job_name(["a=b/c"]) != job_name(["a=b-c"]) != job_name(["a='b-c'"])
    for name in many:
        assert len(name.encode()) < 200
        assert "/" not in name
        assert " " not in name


def test_a_job_is_called_by_what_is_swept(monkeypatch):
    """And not by what all jobs have in common, like long paths; sweeps that a config names are known, too."""
    common = ["experiment=txt2img", f"paths.data_dir='{200 * 'x'}'", "trainer=cpu"]
    monkeypatch.setattr(sweep, "HydraConfig", SimpleNamespace(get=lambda: OmegaConf.create({"sweeper": {}})))
    monkeypatch.setattr("sys.argv", ["train.py", "-m", *common, "lr=1e-3,1e-4", "x.seed=range(1,3)", "d=[1,2]"])
    names = {folder_name([*common, f"lr={lr}", "x.seed=1", "d=[1,2]"]) for lr in ("1e-3", "1e-4")}
    assert names == {"lr=1e-3,x.seed=1", "lr=1e-4,x.seed=1"}
    params = OmegaConf.create({"sweeper": {"params": {"m.dropout": "choice(0.1,0.2)"}}})
    monkeypatch.setattr(sweep, "HydraConfig", SimpleNamespace(get=lambda: params))
    assert folder_name([*common, "lr=1e-3", "m.dropout=0.1"]) == "lr=1e-3,m.dropout=0.1"
    monkeypatch.setattr("sys.argv", ["somebody's launcher", "--port", "3"])
    assert folder_name([*common, "seed=1"]) != folder_name([*common, "seed=2"])


def test_remaining_trials_counts_finished_ones(tmp_path):
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path}/deep/study.db"
    assert remaining_trials(5, storage, "s") == 5
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask(), 1.0)
    study.ask()  # interrupted
    assert remaining_trials(5, storage, "s") == 4
    assert OmegaConf.create({"n": f"${{remaining_trials:5,'{storage}',s}}"}).n == 4
