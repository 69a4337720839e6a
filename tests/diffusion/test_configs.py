import re

import pytest

from ldm.config import CONFIGS, build, compose
from ldm.diffusion.schedule import LinearSchedule


@pytest.mark.parametrize(
    "group",
    [
        "schedule",
        "prediction",
        "weighting",
        "timestep_sampler",
        "criterion",
        "timestep_spacing",
        "sampler",
        "guidance",
        "optimizer",
    ],
)
def test_every_choice_of_a_group_builds(group):
    files = sorted((CONFIGS / group).glob("*.yaml"))
    assert files, "a group that there is"
    for file in files:
        if file.stem in (
            "autoguidance",
            "classifier",
            "low_resolution",
            "clip",
        ):  # need files; see tests/test_sample.py
            continue
        target = "optimizer@stage.diffusion.optimizer" if group == "optimizer" else group
        config = compose("train", ["experiment=txt2img", f"{target}={file.stem}"])
        made = build(config.stage.diffusion.optimizer if group == "optimizer" else config[group])
        assert made is not None
        if group != "optimizer":
            assert re.search(r"References:\n.*\d{4}", type(made).__doc__, re.DOTALL) or file.stem == "none", (
                "it names its source"
            )


@pytest.mark.parametrize("choice", ["zero_terminal", "shifted"])
def test_a_schedule_made_of_another_one_takes_any(choice):
    overrides = [f"schedule={choice}", "schedule@schedule.schedule=linear", "prediction=velocity"]
    made = build(compose("train", ["experiment=txt2img", *overrides]).schedule)
    assert isinstance(made.schedule, LinearSchedule)


@pytest.mark.parametrize("spacing", sorted(path.stem for path in (CONFIGS / "timestep_spacing").glob("*.yaml")))
def test_every_sampler_goes_along_the_timestep_spacing_that_is_chosen(spacing):
    for file in (CONFIGS / "sampler").glob("*.yaml"):
        config = compose("sample", ["ckpt=none", f"sampler={file.stem}", f"timestep_spacing={spacing}"])
        chosen = type(build(config.timestep_spacing))
        assert type(build(config.sampler).timestep_spacing) is chosen, file.stem
