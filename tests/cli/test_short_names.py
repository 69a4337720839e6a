"""Options may be called as in other projects with Lightning and Hydra."""

import pytest

from ldm import config
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import UsageError, check_options
from ldm.cli.short_names import INSTEAD, NODES, OPTIONS, is_short, rewrite
from ldm.config import compose

WRITTEN = {
    "trainer.max_steps=9": "stage.diffusion.trainer.max_steps=9",
    "trainer.gradient_clip_val=0.5": "stage.diffusion.trainer.gradient_clip_val=0.5",
    "+trainer.accumulate_grad_batches=2": "stage.diffusion.trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=50": "stage.diffusion.validate_every_n_steps=50",
    "data.batch_size=8": "stage.diffusion.batch_size=8",
    "batch_size=8,16": "stage.diffusion.batch_size=8,16",
    "optimizer=muon": "optimizer@stage.diffusion.optimizer=muon",
    "optimizer=adam,muon": "optimizer@stage.diffusion.optimizer=adam,muon",
    "optimizer.lr=1e-3": "stage.diffusion.optimizer.lr=1e-3",
    "model.optimizer.lr=1e-3,1e-4": "stage.diffusion.optimizer.lr=1e-3,1e-4",
    "model.optimizer=muon": "optimizer@stage.diffusion.optimizer=muon",
    "optimizer={lr: 1}": "stage.diffusion.optimizer={lr: 1}",
    "scheduler=cosine": "scheduler@stage.diffusion.scheduler=cosine",
    "scheduler.warmup_steps=5": "stage.diffusion.scheduler.warmup_steps=5",
    "callbacks=none": "callbacks@stage.diffusion.callbacks=none",
    "callbacks.checkpoint.every_n_steps=5": "stage.diffusion.callbacks.checkpoint.every_n_steps=5",
}


@pytest.mark.parametrize(("typed", "full"), WRITTEN.items(), ids=list(WRITTEN))
def test_short_names_mean_the_last_stages_options(typed, full):
    assert is_short(typed)
    assert rewrite([typed], "diffusion") == [full]
    assert rewrite([full], "diffusion") == [full], "a process that is started again reads the full names"


@pytest.mark.parametrize(
    "option",
    [
        *("trainer.precision=32-true", "trainer.devices=2", "logger=[csv,tensorboard]", "tags=[a]", "seed=1"),
        *("paths.output_dir=a", "optimizer@stage.autoencoder.optimizer=muon", "stage.autoencoder.optimizer.lr=1"),
        *("model.caption_dropout=0", "optimized_metric=fid", "batch_sizes=1", "data.train=a"),
    ],
)
def test_other_names_stay(option):
    assert not is_short(option)
    assert rewrite([option], "diffusion") == [option]


def test_a_name_that_the_config_has_is_not_short():
    assert rewrite(["batch_size=3"], "diffusion", {"batch_size"}) == ["batch_size=3"]
    assert rewrite(["~optimizer"], "diffusion") == ["~optimizer"]


@pytest.mark.parametrize("name", INSTEAD)
def test_what_cannot_be_says_what_to_type(name):
    with pytest.raises(UsageError, match=r"is no option here: .* type"):
        rewrite([f"{name}=3"], "diffusion", {name})


def test_validation_is_counted_in_steps():
    with pytest.raises(UsageError, match="val_check_interval=0.5: .* give a whole number"):
        rewrite(["trainer.val_check_interval=0.5"], "diffusion")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small config tree with stages."""
    stage = "# @package stage.{0}\ndefaults: [/optimizer@optimizer: adam, _self_]\n_target_: a.B\nbatch_size: 2\n"
    files = {
        "train": "defaults:\n  - stage: [first, second]\n  - _self_\n  - debug: null\nseed: 0\ntrainer: {max_epochs: -1}\n",
        "stage/first": stage.format("first"),
        "stage/second": stage.format("second"),
        "optimizer/adam": "lr: 1\n",
        "optimizer/muon": "lr: 2\n",
        "debug/few": "# @package _global_\nstage: {first: {batch_size: 1}, third: {batch_size: 1}}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(config, "CONFIGS", tmp_path)


def read(*words):
    line = read_command_line("train", list(words))
    check_options("train", line)
    return line


@pytest.mark.usefixtures("tree")
def test_the_last_stage_is_the_last_of_those_that_are_trained():
    line = read("optimizer=muon", "optimizer.lr=3", "batch_size=4")
    composed = compose("train", line.options)
    assert (composed.stage.second.optimizer.lr, composed.stage.second.batch_size) == (3, 4)
    assert (composed.stage.first.optimizer.lr, composed.stage.first.batch_size) == (1, 2)
    assert read("stage=[first]", "batch_size=4").options == ("stage=[first]", "stage.first.batch_size=4")
    assert read("debug=few", "batch_size=4").options == ("debug=few", "stage.second.batch_size=4")
    line = read("-m", "optimizer=adam,muon", "batch_size=4,8")
    assert line.options == ("optimizer@stage.second.optimizer=adam,muon", "stage.second.batch_size=4,8")


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer=moun", "there is no optimizer@stage.second.optimizer=moun; did you mean muon?"),
        ("optimizer.lrr=3", "there is no option stage.second.optimizer.lrr; did you mean stage.second.optimizer.lr"),
        ("trainer.max_epochs=3", "type trainer.max_steps=NUMBER"),
        ("ckpt_path=last.ckpt", "type the command again that began it"),
        ("stage=[frist]", "there is no stage=frist; did you mean first?"),
    ],
)
def test_mistakes_in_short_names_are_reported(word, message):
    with pytest.raises(UsageError) as error:
        read("seed=1", word, "batch_size=4")
    assert message in str(error.value)


def test_every_table_is_of_stages():
    assert all(full.startswith("stage.{stage}.") for full in (*OPTIONS.values(), *NODES.values()))
