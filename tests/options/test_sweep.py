"""Where the runs of a sweep write, and how many are still to be made."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from ldm.config import CONFIGS, register_resolvers
from ldm.options import arguments, sweep
from ldm.options.sweep import folder_name, remaining_trials


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


def test_words_are_kept_as_they_were_typed(monkeypatch):
    monkeypatch.setattr(arguments, "_typed", [])
    assert sweep.typed_words() == []
    arguments.keep_typed(["-m", "steps=200", "prompt=a cat, red"])
    assert sweep.typed_words() == ["-m", "steps=200", "prompt=a cat, red"]


def test_scores_of_another_metric_or_direction_are_of_another_study():
    searched = OmegaConf.load(CONFIGS / "hparams_search" / "optuna.yaml")
    names = {
        OmegaConf.merge(
            searched, {"name": "x", "optimized_metric": metric, "hydra": {"sweeper": {"direction": direction}}}
        ).hydra.sweeper.study_name
        for metric in ("fid", "caption_accuracy")
        for direction in ("minimize", "maximize")
    }
    assert len(names) == 4


def test_remaining_trials_counts_finished_ones(tmp_path):
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path}/deep/study.db"
    assert remaining_trials(5, storage, "s") == 5
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask(), 1.0)
    study.ask()  # interrupted
    assert remaining_trials(5, storage, "s") == 4
    register_resolvers()
    assert OmegaConf.create({"s": f"${{study_storage:'{tmp_path}/new'}}"}).s == f"sqlite:///{tmp_path}/new/study.db"
    assert optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/new/study.db") == [], "in a folder that is there"
    assert OmegaConf.create({"n": f"${{remaining_trials:5,'{storage}',s}}"}).n == 4
