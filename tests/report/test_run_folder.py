"""Reading a run from its folder, its record, and what is hidden of it."""

import json
import logging
from dataclasses import replace

import pytest

from ldm.cli.command_line import UsageError
from ldm.cli.entry import read_command_line
from ldm.report.machine import PACKAGES, hardware, versions
from ldm.report.record import MOST_COMMANDS, MOST_WARNINGS, heard_warnings, read_record, typed
from ldm.report.run_folder import read_run
from ldm.report.secrets import HIDDEN, without_secrets, word_without_secrets
from tests.report.folders import CONFIG, a_record, write_run


def test_a_run_is_read_whole(tmp_path):
    run = read_run(write_run(tmp_path / "a", seed=3, record=a_record()))
    assert [stage.name for stage in run.stages] == ["autoencoder", "diffusion"]
    assert run.is_finished
    assert run.experiment == "hearts"
    diffusion = run.stages[1]
    assert (diffusion.step, diffusion.steps) == (100, 100)
    assert diffusion.scores.keys() == {"val/loss", "val/loss_t0.5"}
    assert [step for step, _ in diffusion.pictures["samples"]] == [10, 20, 30]
    assert diffusion.panels["loss"] == ["train/loss"]


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    run = read_run(write_run(tmp_path / "a", finished=False, stages=("autoencoder",)))
    assert not run.is_finished
    assert run.waiting == ["diffusion"]
    assert run.record is None
    given = read_run(write_run(tmp_path / "b", stages=("diffusion",)))
    assert given.is_finished, "the autoencoder was given"


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a")
    file = folder / "diffusion" / "logs" / "metrics.csv"
    before = read_run(folder).stages[1].curves
    file.write_text(file.read_text() + "1,0.")
    assert read_run(folder).stages[1].curves == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no run .*/a; there is .*/b"),
        (lambda path: path.write_text("a"), "is a file; give the folder of the run"),
        (lambda path: path.mkdir(), "is not a run: it has no config.yaml; runs are the folders"),
        (lambda path: write_run(path / "seed=1"), "is not a run: it has no config.yaml; it holds 1; give .*/seed=1"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("a: [")), "cannot be read as YAML"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("a: 1")), "is not the config of a run"),
        (
            lambda path: (path.mkdir(), (path / "config.yaml").write_text("!!python/object/apply:os.getcwd []")),
            "as YAML",
        ),
        (lambda path: write_run(path, stages=()), "has logged nothing yet"),
        (
            lambda path: (write_run(path) / "diffusion" / "results.json").write_text("{"),
            "results.json cannot be read as JSON",
        ),
    ],
    ids=["none", "file", "empty", "sweep", "yaml", "other", "code", "begun", "results"],
)
def test_what_is_no_run_is_named(tmp_path, make, said):
    write_run(tmp_path / "b")
    make(tmp_path / "a")
    with pytest.raises(ValueError, match=said):
        read_run(tmp_path / "a")


def test_a_folder_of_a_stage_leads_to_its_run(tmp_path):
    folder = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match=f"give the run that it belongs to: {folder}$"):
        read_run(folder / "diffusion")


def test_a_record_is_read_as_it_was_written_and_what_is_none_is_none(tmp_path):
    record = a_record(warnings=["a"])
    record.write(tmp_path)
    assert json.dumps(read_record(tmp_path), default=vars) == json.dumps(record, default=vars)
    for text in ("", "[]", "{}", '{"invocations": [{"a": 1}]}', '{"panels": {}, "invocations": [], "more": 1}'):
        (tmp_path / "record.json").write_text(text)
        assert read_record(tmp_path) is None


def test_a_record_keeps_its_first_and_last_commands_and_each_warning_once():
    record = replace(a_record(), invocations=[])
    assert record.warned(["a"]).invocations == []
    for number in range(2 * MOST_COMMANDS):
        record = record.begun(a_record(f"command {number}").invocations[0])
    commands = [invocation.command for invocation in record.invocations]
    assert len(commands) == MOST_COMMANDS
    assert (commands[0], commands[1], commands[-1]) == (
        "command 0",
        f"command {MOST_COMMANDS + 1}",
        f"command {2 * MOST_COMMANDS - 1}",
    )
    warned = record.warned(["a", "b", "a", *map(str, range(2 * MOST_WARNINGS))]).invocations[-1].warnings
    assert warned[:3] == ["a", "b", "0"]
    assert len(warned) == MOST_WARNINGS


def test_a_record_that_cannot_be_written_is_only_warned_of(tmp_path, caplog):
    (tmp_path / "record.json").mkdir()
    a_record().write(tmp_path)
    assert "the record of the run could not be written" in caplog.text


def test_warnings_of_this_program_are_heard_and_no_others():
    with heard_warnings() as heard:
        logging.getLogger("ldm.task").warning("loss of %s", 3)
        logging.getLogger("ldm.task").info("quiet")
        logging.getLogger("other").warning("of others")
    logging.getLogger("ldm.task").warning("later")
    assert heard == ["loss of 3"]


def test_the_machine_is_described_without_its_name(monkeypatch):
    monkeypatch.setenv("SECRET", "from-the-environment")
    found = {**hardware(accelerator="cpu", precision="32-true", processes=2), **versions()}
    assert (found["trained on"], found["precision"], found["processes"]) == ("cpu", "32-true", "2")
    assert int(found["cores"]) >= 1
    assert {"ldm", "Python", *PACKAGES} <= found.keys()
    import platform

    assert platform.node() not in found.values()
    assert "from-the-environment" not in json.dumps(found)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("logger.wandb.api_key=abc", f"logger.wandb.api_key={HIDDEN}"),
        ("+hub.token=abc", f"+hub.token={HIDDEN}"),
        ("data.train=https://u:p@h.org/{0..9}.tar", f"data.train=https://{HIDDEN}@h.org/{{0..9}}.tar"),
        ("data.train=https://h.org/a.tar?Signature=abc&b=c", f"data.train=https://h.org/a.tar?{HIDDEN}"),
        ("data.train=s3://b/a-????.tar", "data.train=s3://b/a-????.tar"),
        ("conditioner.max_tokens=77", "conditioner.max_tokens=77"),
        ("prompt=a token=1?", "prompt=a token=1?"),
        ("name=a@b", "name=a@b"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(word, shown):
    assert word_without_secrets(word) == shown
    assert HIDDEN not in typed("python train.py", [word]) or HIDDEN in shown


def test_secrets_inside_of_lists_and_mappings_are_hidden():
    config = {"a": [{"password": "x", "tokens": 5}, "https://u@h/x"], "secret": ["y"], "token": None, "auth": ""}
    hidden = {
        "a": [{"password": HIDDEN, "tokens": 5}, f"https://{HIDDEN}@h/x"],
        "secret": [HIDDEN],
        "token": None,
        "auth": "",
    }
    assert without_secrets(config) == hidden
    assert without_secrets(CONFIG) == CONFIG


def test_words_without_a_name_may_be_paths_that_hold_equals_signs():
    def runs(*words):
        return read_command_line("compare", list(words), "", "runs", paths=True).options

    assert runs("runs/s/seed=1", "b", "out=c") == ("out=c", "runs=['runs/s/seed=1','b']")
    assert runs("./seed=1") == ("runs=['./seed=1']",)
    assert runs("hydra/job_logging=none", "a") == ("hydra/job_logging=none", "runs=['a']")
    with pytest.raises(UsageError, match="runs is given twice"):
        runs("a", "runs=[b]")
