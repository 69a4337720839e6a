"""The expected curves that come with the program are of its experiments as they are today."""

import pytest

from ldm.compare.agreement import JUDGED, expectations
from ldm.compare.expected import FOLDER, read_expected
from ldm.compare.options import trained_alike, training_options
from ldm.config import CONFIGS, resolved
from tests.configs import composed

CURVES = sorted(FOLDER.glob("*.csv"))


def test_there_are_some():
    assert "txt2img" in {file.stem for file in CURVES}


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.stem)
def test_a_curve_is_of_an_experiment_as_it_is_trained_today(file):
    assert (CONFIGS / "experiment" / f"{file.stem}.yaml").is_file()
    options = training_options(resolved(composed("train", f"experiment={file.stem}")))
    assert trained_alike(read_expected(file).options, options) == [], "train the seeds anew"


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.stem)
def test_a_curve_has_enough_seeds_to_judge_by_what_validation_measures(file):
    expected = read_expected(file)
    judged = {key: values for key, values in expected.values.items() if key[1].startswith(JUDGED)}
    assert expected.seeds >= 3
    assert {stage for stage, _ in judged} == {"autoencoder", "diffusion"}
    assert all(len(expectations(values)) == len(values) for values in judged.values())
    assert {len(of_step) for values in expected.values.values() for of_step in values.values()} == {expected.seeds}
