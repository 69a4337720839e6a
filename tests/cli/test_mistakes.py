"""What a mistyped command line is answered, before anything is done."""

import pytest
from omegaconf import OmegaConf

from ldm.cli.command_line import ELSEWHERE, HELP, INFO, PLAIN, VALUED, read_words
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import UsageError, check_options, unreadable
from ldm.config import CONFIGS
from ldm.options.arguments import MULTIRUN, quote_texts

UNREADABLE = [
    (["prompt=a", "red", "heart"], 'is no option; where it belongs to prompt, put the whole in quotes: prompt="a red heart"'),
    (["experiment=txt2img", "name=my", "run"], 'put the whole in quotes: name="my run"'),
    (["seed=1", "prompt=it's", "red", "n=2"], 'in quotes: prompt="it\'s red"'),
    (["images=my", "photos"], 'images="my photos"'),
    (["red"], "'red' is not of the form option=value"),
    (["/"], "'/' is not of the form option=value, so say which option it is for: OPTION=/; --help"),
    (["optimized_metric=a=b"], "optimized_metric=a=b cannot be read; if its value is a text, put that in quotes of both kinds: "
     "optimized_metric=\"'a=b'\""),
    (["logger.wandb.job_type=ночь $1"], "put that in quotes of both kinds: "),
    (["имя=1"], "имя=1 cannot be read: 'имя' is no name of an option"),
    (["=1"], "=1 cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), UNREADABLE, ids=[words[-1] for words, _ in UNREADABLE])
def test_what_cannot_be_read_is_said_with_what_to_type(words, message):
    assert message in unreadable(quote_texts(words))


MISTAKES = [
    (
        "train",
        "data=icon",
        "there is no data=icon; did you mean icons? choose from icon_scenes, icons, latents, moments, openmoji, shards, stream",
    ),
    ("train", "-m sampler=ddim,heum", "there is no sampler=heum; did you mean heun?"),
    ("train", "experiment=txt2imag", "there is no experiment=txt2imag; did you mean txt2img"),
    (
        "train",
        "stage.diffusion.batch_sise=3",
        "there is no option stage.diffusion.batch_sise; did you mean stage.diffusion.batch_size",
    ),
    ("train", "-m sed=1,2", "there is no option sed; did you mean seed"),
    (
        "train",
        "stage.diffusion.optimizer=muon",
        "is a group, whose choice is typed optimizer@stage.diffusion.optimizer=muon",
    ),
    ("train", "-m stage.diffusion.optimizer=adam,muon", "typed optimizer@stage.diffusion.optimizer=adam,muon"),
    (
        "train",
        "optimizer@stage.diffusion.optimizer=moun",
        "no optimizer@stage.diffusion.optimizer=moun; did you mean muon?",
    ),
    ("train", "data.source=x", "data.source=x would replace the options data.source.folder, data.source.count, "),
    ("train", "seed=1,2", 'add -m; for a list type seed="[1,2]"; for one text type seed="\'1,2\'"'),
    ("train", "~nothing", "Could not delete from config"),
    (
        "train",
        "data.train=a data.train=b",
        "given 2 times; give it once; braces that a shell has taken for several words go in quotes: data.train='...'",
    ),
    ("train", "samplr=heun", "there is no option samplr; did you mean sampler or "),
    (
        "train",
        "experiment=class_icons data=shards debug=tiny",
        "experiment=class_icons does not go with data=shards (In 'experiment/class_icons': Could not override "
        "'metric/truth@metric'. No match in the defaults list.); leave one of them out; for a model with the same conditioner "
        "type experiment=txt2img data=shards conditioner=label",
    ),
    ("pack", "format=webp", "there is no option format; did you mean image_format?"),
    ("pack", "format=lora", "format=lora chooses nothing here; did you mean image_format?"),
    ("sample", "backbone=nothing", "there is no option backbone; see all options with --help"),
    ("evaluate", "data=nothing", "there is no data=nothing; choose from "),
    ("train", "experiment=class_icons metric/truth@metric=nothing", "no metric/truth@metric=nothing; choose from "),
    ("train", "logger=null", "there is no logger=null; leave it out to keep the default, or choose from "),
    ("train", "-m sampler=ddim,null", "there is no sampler=null; leave it out"),
    ("sample", "sampler=null", "there is no sampler=null; leave it out to keep the default, or choose from ddim, "),
    (
        "evaluate",
        "metric=null",
        "there is no metric=null; leave it out to keep the default, or choose from clip_score, ",
    ),
    ("train", "data.train=a/*.tar", "data=icons has no option data.train; for your own data add data=shards"),
    ("train", "experment=txt2img", "there is no option experment; did you mean experiment?"),
    ("train", "optimiser=muon", "there is no option optimiser; did you mean optimizer"),
    ("train", "max_steps=3", "there is no option max_steps; did you mean trainer.max_steps or stage."),
    ("train", "lr=3", "there is no option lr; did you mean stage.autoencoder.optimizer.lr or stage."),
    ("encode", "ckpt=a", "there is no option ckpt; did you mean autoencoder.ckpt?"),
    ("sample", "gidance=none", "there is no option gidance; did you mean guidance or "),
    ("sample", "sampler=heum", "there is no sampler=heum; did you mean heun?"),
    ("sample", "guidance=7.5", "there is no guidance=7.5; did you mean guidance.scale=7.5? choose from autoguidance, "),
    ("sample", "prompt=a prompt=b", "prompt is given 2 times; give it once"),
    ("sample", "init=a init=b", "init is given 2 times; give it once; braces that a shell"),
    ("pack", "imags=a", "there is no option imags; did you mean images"),
    ("encode", "data.sid=3", "there is no option data.sid; did you mean data.size"),
    ("evaluate", "image=a", "there is no option image; did you mean images"),
    (
        "evaluate",
        "sampler.steps=5",
        "sampler.steps is an option of a choice of sampler, and none is chosen (the model's own); "
        "type sampler=ddim sampler.steps=5 (it is also of ddpm, ",
    ),
    (
        "evaluate",
        "-m sampler.stps=5,10",
        "no option sampler.stps; did you mean sampler=ddim sampler.steps=...? none is chosen (the model's own)",
    ),
    (
        "evaluate",
        "guidance.scale=3",
        "type guidance=classifier_free guidance.scale=3 (it is also of autoguidance, classifier, clip, low_resolution)",
    ),
    (
        "evaluate",
        "degradation.factor=3",
        "none is chosen (as in the run); type degradation=bicubic degradation.factor=3",
    ),
    (
        "evaluate",
        "masks.color=3",
        "there is no option masks.color; no choice of masks has it (boxes, mixed, strokes); none is chosen (as in the run)",
    ),
    (
        "train",
        "experiment=txt2img callbacks.evaluation.prompts_guidance.scale=3",
        "none is chosen; type guidance@stage.diffusion.callbacks.evaluation.prompts_guidance=classifier_free stage.",
    ),
    (
        "sample",
        "guidance=none guidance.scale=3",
        "guidance.scale is an option of a choice of guidance, and guidance=none does not have it; "
        "type guidance=classifier_free guidance.scale=3",
    ),
    ("train", "logger.wandb.project=a", "type logger=[csv,wandb] logger.wandb.project=a"),
    (
        "evaluate",
        "metric=[kid,cmmd] metric.fid.extractor.weights=a",
        "type metric=[cmmd,kid,fid] metric.fid.extractor.",
    ),
    (
        "evaluate",
        "metric.fid.foo=1",
        "there is no option metric.fid.foo; metric=fid has the options metric.fid.extractor.weights; none is",
    ),
    (
        "evaluate",
        "metric.sfid=1",
        "none is chosen (those of the run, or those that need no download); did you mean metric=sfid metric.sfid.",
    ),
    ("sample", "sampler.churn=1", "did you mean sampler=euler sampler.churn.amount=...?"),
    (
        "train",
        "experiment=class_icons data.buffer=2",
        "data.buffer is an option of data=stream, which does not go with the other choices; leave it out, or those",
    ),
    ("sample", "logger.csv.name=1", "there is no option logger.csv.name; see all options"),
    ("sample", "mode.negative=a", "there is no option mode.negative; did you mean mode.prompts.negative or negative"),
    ("sample", "mode=1", "there is no mode=1; choose from img2img, "),
    ("train", "experiment=txt2img logger=[csv,2]", "there is no logger=[csv,2]; choose from "),
    ("train", "-m sampler=range(1,3)", "there is no sampler=range(1,3); choose from "),
    ("train", "experiment=txt2img locl=1", "there is no option locl; see all options"),
    ("train", "experiment=txt2img trainer.max_epoch=1", "did you mean trainer.max_steps"),
    ("train", "experiment=txt2img masks.fraction.low=1", "no option masks.fraction.low; did you mean masks.fraction"),
    ("train", "experiment=txt2img stage.diffusion=a", "would replace the options stage.diffusion.batch_size, "),
    (
        "train",
        "experiment=txt2img stage.diffusion.callbacks.evaluation.prompts_guidance=none",
        "is a group, whose choice is typed guidance@stage.diffusion.callbacks.evaluation.prompts_guidance=none",
    ),
    ("ema", "lenght=3", "there is no option lenght; did you mean length"),
]


@pytest.mark.parametrize(("name", "words", "message"), MISTAKES, ids=[words for _, words, _ in MISTAKES])
def test_mistakes_are_reported_with_what_to_type(name, words, message):
    with pytest.raises(UsageError) as error:
        check_options(name, read_command_line(name, words.split()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


RIGHT = [
    ("train", "experiment=txt2img -m seed=1,2 sampler=ddim,heun data.size=32,64 +mine=1,2 hydra.sweep.dir=a"),
    ("train", "-m experiment=glob(txt2img*) seed=range(1,3)"),
    (
        "train",
        "experiment=txt2img ++seed=3 ~alignment hydra.run.dir=. trainer.precision=32-true",
    ),
    ("train", "experiment=txt2img stage=[autoencoder_icons,diffusion_icons] stage.autoencoder.loss.discriminator=null"),
    ("train", "-m experiment=txt2img hparams_search=optuna seed=range(1,3) data.source.val_fraction=interval(0.1,0.2)"),
    ("pack", "images=a out=b side=32 image_format=png"),
    ("sample", "ckpt=a guidance@guidance.guidance=none guidance=low_resolution"),
]


@pytest.mark.parametrize(("name", "words"), RIGHT, ids=[words for _, words in RIGHT])
def test_what_is_right_is_let_through(name, words):
    check_options(name, read_command_line(name, words.split()))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_option_has_the_name_of_a_group_which_hydra_would_take_it_for(file):
    groups = {folder.name for folder in CONFIGS.iterdir() if folder.is_dir()}
    options = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert not [name for name, value in options.items() if name in groups and not isinstance(value, dict)]


def test_flags_and_options_may_stand_in_any_order():
    line = read_words(["a=1", "-m", "b=2", "--package", "mine", "~c", "--info", "d=3", "--cfg=job"])
    assert line.words == ["-m", "--package", "mine", "--info=all", "--cfg=job", "a=1", "b=2", "~c", "d=3"]
    assert (line.is_sweep, line.asks_help) == (True, False)
    assert read_words(["a=1", "-h"]).asks_help


def test_folders_of_configs_become_one_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it's").mkdir()
    line = read_words(["--config-dir=it's", "hydra.searchpath=[pkg://mine]", "-cd", "/", "a=1"])
    assert line.folders == [f"file://{tmp_path}/it's", "file:///", "pkg://mine"]
    assert [option.partition("=")[0] for option in line.words] == ["a", "hydra.searchpath"]
    assert read_words(line.words) == line
    with pytest.raises(UsageError, match="there is no folder nowhere, in which --config-dir would look"):
        read_words(["--config-dir", "nowhere"])


def test_the_flags_are_hydras():
    """A flag that a coming Hydra adds or drops is to be sorted in `command_line`."""
    from hydra._internal.utils import get_args_parser

    flags = [action for action in get_args_parser()._actions if action.option_strings]
    with_value = {name for action in flags if action.nargs != 0 for name in action.option_strings}
    alone = {name for action in flags if action.nargs == 0 for name in action.option_strings}
    assert with_value == {*VALUED, *INFO}
    assert alone == {*HELP, *MULTIRUN, *PLAIN, *ELSEWHERE} - with_value


@pytest.mark.parametrize("words", ["--verbose seed=1", "--cfg job --colour=red", "-x"])
def test_flags_that_hydra_does_not_know_are_reported(words):
    with pytest.raises(UsageError, match="is not of the form option=value; --help shows all options"):
        check_options("train", read_command_line("train", words.split()))


def test_options_of_a_node_are_named_without_it():
    line = read_command_line("icons", ["count=3", "data.source.size=16", "hydra.run.dir=."], under="data.source")
    assert line.options == ("data.source.count=3", "data.source.size=16", "hydra.run.dir=.")
