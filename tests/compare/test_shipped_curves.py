"""The expected curves that come with the program are of its experiments as they are today."""

from dataclasses import replace

import pytest

from ldm.compare.agreement import JUDGED, expectations
from ldm.compare.expected import FOLDER, read_expected
from ldm.compare.options import trained_alike, training_options
from ldm.compare.verdict import find_expected
from ldm.config import CONFIGS, resolved
from ldm.report.run_folder import read_run
from tests.cases import mostly_slow
from tests.configs import composed, given_to
from tests.report.folders import a_record, write_run

CURVES = sorted(FOLDER.glob("*.csv"))

BESIDE = {"classifier": "autoencoder.ckpt=runs/txt2img", "label_classifier": "autoencoder.ckpt=runs/class_icons"}
"""Experiment -> the option that names the run beside which it is trained."""


def config_of(file):
    """Return the config of the experiment of a curve."""
    beside = [BESIDE[file.stem]] if file.stem in BESIDE else []
    return resolved(composed("train", f"experiment={file.stem}", *beside))


def test_every_experiment_of_embedded_data_has_one():
    embedded = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml") if not given_to(path.stem)}
    assert "txt2img" in embedded
    assert embedded <= {file.stem for file in CURVES}


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.stem)
def test_a_curve_is_of_an_experiment_as_it_is_trained_today(file):
    assert (CONFIGS / "experiment" / f"{file.stem}.yaml").is_file()
    options = training_options(config_of(file))
    assert trained_alike(read_expected(file).options, options) == [], "train the seeds anew"


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.stem)
def test_a_curve_has_enough_seeds_to_judge_by_what_validation_measures(file):
    expected = read_expected(file)
    judged = {key: values for key, values in expected.values.items() if key[1].startswith(JUDGED)}
    assert expected.seeds >= 3
    assert {stage for stage, _ in judged} == set(config_of(file)["stage"])
    assert all(len(expectations(values)) == len(values) for values in judged.values())
    assert {len(of_step) for values in expected.values.values() for of_step in values.values()} == {expected.seeds}


@pytest.mark.parametrize(
    "file", mostly_slow(CURVES, lambda file: file.stem in ("txt2img", "classifier")), ids=lambda file: file.stem
)
def test_a_run_of_the_experiment_is_compared_with_it_and_no_option_is_said_to_differ(file, tmp_path):
    """Of an autoencoder that another run has trained neither file nor name are part of the experiment."""
    config, record = config_of(file), replace(a_record(), experiment=file.stem)
    run = write_run(tmp_path / "run", config=config, record=record, stages=tuple(config["stage"]))
    expected, _, remarks = find_expected([read_run(run)], None)
    assert expected.title == file.stem
    assert remarks == [f"Expected is the curve of experiment={file.stem}, which comes with this program."]


def test_an_autoencoder_that_was_not_trained_with_the_run_is_another_where_the_experiment_trains_one(tmp_path):
    config = resolved(composed("train", "experiment=class_icons", "autoencoder.ckpt=runs/txt2img"))
    record = replace(a_record(), experiment="class_icons")
    _, _, remarks = find_expected([read_run(write_run(tmp_path / "run", config=config, record=record))], None)
    assert remarks[1].endswith("was not trained as experiment=class_icons is: it differs in autoencoder.ckpt.")
