"""Loggers that keep runs elsewhere know a run again when it is continued."""

import time

import pytest

from tests.conftest import forked
from tests.training.stages import built, composed

TINY = ["experiment=txt2img", "debug=tiny", "trainer=cpu", "logger=wandb"]


def experiments(stage):
    """The id of the run that the stage's logger has begun, offline."""
    found = [logger.experiment for logger in stage.loggers if type(logger).__name__ == "WandbLogger"]
    for one in found:
        one.finish()
    (run,) = found
    return run.id


def test_an_id_is_kept_in_the_folder_of_the_stage(tmp_path):
    config = composed(*TINY, f"paths.output_dir={tmp_path}")
    first = built("diffusion", config, tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is written before a run begins"
    first.keep_run_id()
    mine = experiments(first)
    time.sleep(1.1)  # W&B names folders by the second, and gives runs of the same one a folder together
    again = built("diffusion", config, tmp_path)
    again.keep_run_id()
    assert experiments(again) == mine
    assert (tmp_path / "diffusion" / "run_id.txt").read_text() == f"{mine}\n"
    assert len({mine, *(experiments(built("diffusion", config, tmp_path / name)) for name in "ab")}) == 3, "one a run"
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{mine}"))) == 2


@pytest.mark.e2e
def test_a_run_that_was_killed_goes_on_as_the_same_run(tiny_run, places, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # another test's, in which the killed run would still be known
    options = [*TINY, f"autoencoder.ckpt={tiny_run}", places[0], f"paths.runs_dir={tmp_path}", "name=x"]
    forked("-m", "tests.recorded", str(tmp_path / "record"), "diffusion/12/SIGKILL", *options, ok=False)
    forked("train.py", *options)
    runs = [path.name.split("-", 3)[3] for path in (tmp_path / "x" / "wandb").glob("offline-run-*")]
    assert runs == [(tmp_path / "x" / "diffusion" / "run_id.txt").read_text().strip()] * 2
