import re

import pytest

from ldm.config import CONFIGS, build, compose
from ldm.diffusion.schedule import LinearSchedule
from tests.configs import one_of_each

GROUPS = (
    "schedule",
    "prediction",
    "weighting",
    "timestep_sampler",
    "criterion",
    "timestep_spacing",
    "sampler",
    "guidance",
    "optimizer",
)
NEED_FILES = ("autoguidance", "classifier", "low_resolution", "clip")
"""Guidance that tests/generation/test_sample.py makes."""


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem not in NEED_FILES)


@pytest.mark.parametrize("chosen", one_of_each({group: choices(group) for group in GROUPS}), ids=str)
def test_every_choice_builds_and_names_its_source(chosen):
    names = {"optimizer": "optimizer@stage.diffusion.optimizer"}
    options = [f"{names.get(group, group)}={choice}" for group, choice in chosen.items()]
    config = compose("train", ["experiment=txt2img", *options])
    assert build(config.stage.diffusion.optimizer) is not None
    for group in GROUPS[:-1]:
        made = build(config[group])
        source = re.search(r"References:\n.*\d{4}", type(made).__doc__, re.DOTALL)
        assert source or chosen[group] == "none", f"{group}={chosen[group]}"


@pytest.mark.parametrize("choice", ["zero_terminal", "shifted"])
def test_a_schedule_made_of_another_one_takes_any(choice):
    overrides = [f"schedule={choice}", "schedule@schedule.schedule=linear", "prediction=velocity"]
    made = build(compose("train", ["experiment=txt2img", *overrides]).schedule)
    assert isinstance(made.schedule, LinearSchedule)


SAMPLERS, SPACINGS = choices("sampler"), choices("timestep_spacing")
PAIRS = [(sampler, SPACINGS[number % len(SPACINGS)]) for number, sampler in enumerate(SAMPLERS)]


@pytest.mark.parametrize(("sampler", "spacing"), PAIRS)
def test_every_sampler_goes_along_the_timestep_spacing_that_is_chosen(sampler, spacing):
    config = compose("sample", ["ckpt=none", f"sampler={sampler}", f"timestep_spacing={spacing}"])
    assert config.timestep_spacing._target_.rpartition(".")[2].lower() == f"{spacing.replace('_', '')}spacing"
    assert type(build(config.sampler).timestep_spacing) is type(build(config.timestep_spacing))
