"""Plans: their laws, what they refuse and what makes it fit, the file, and the program."""

import json
import re

import pytest
from omegaconf import OmegaConf

from ldm.options.arguments import parse_override
from ldm.plan import calibrate, stage_plan
from ldm.plan.figure import shown
from ldm.plan.memory import StepMemory
from ldm.plan.program import OWN, main, next_command, plan
from tests import configs
from tests.conftest import forked

TINY = ("experiment=txt2img", "debug=tiny")
SMALL = ("backbone.channel_mult=[1]", "backbone.attention_levels=[0]", "conditioner.depth=1")
DIFFUSION = (*TINY, "autoencoder.ckpt=x", *SMALL)
"""With an autoencoder that is there at the time of training, so that one stage is left to be planned."""


def config_of(*options):
    """Return the config of a plan, each experiment composed once."""
    own = [option for option in options if option.partition("=")[0] in OWN and not option.startswith("hardware=")]
    config = configs.composed("plan", *(option for option in options if option not in own))
    for option in map(parse_override, own):
        OmegaConf.update(config, option.key_or_group, option.value())
    return config


def planned(*options):
    return {made.name: made for made in plan(config_of(*options))}


def total_memory(made):
    return next(rows for title, rows in made.sections.items() if title.startswith("memory"))[-1].value


@pytest.fixture
def memory_is_not_counted(monkeypatch):
    """Half of the time of a plan is saved where other figures are looked at."""
    monkeypatch.setattr(stage_plan, "step_memory", lambda *_, **__: StepMemory(0, 0, 0, 0, 0))


@pytest.mark.usefixtures("memory_is_not_counted")
def test_twice_the_devices_need_half_the_days():
    one, two = (planned(*DIFFUSION, f"gpus={count}")["diffusion"] for count in (2, 4))
    four = planned(*DIFFUSION, "gpus=8")["diffusion"]
    steps = [made.find("time", "a step") for made in (one, two, four)]
    images = [made.find("time", "images a second") for made in (one, two, four)]
    assert steps[0] > steps[1] > steps[2], "less to do for each"
    halves = steps[1] - steps[2], steps[0] - steps[1]  # the update, which each makes, is in none of the differences
    assert halves[1] == pytest.approx(2 * halves[0], rel=0.05)
    assert images[0] * steps[0] == pytest.approx(images[1] * steps[1])


@pytest.mark.usefixtures("memory_is_not_counted")
def test_epochs_and_cost():
    """Of a number of images that is typed like ten to the three."""
    made = planned(*DIFFUSION, "images='1e3'", "hardware.price=2")["diffusion"]
    steps, hours = made.find("time", "steps"), made.find("time", "device-hours")
    batch = config_of(*TINY).stage.diffusion.batch_size
    assert made.find("time", "epochs") == steps * batch / 1000
    assert made.find("time", "cost") == 2 * hours
    assert made.find("time", "days") * 24 == pytest.approx(hours)


def test_a_stage_that_does_not_fit_is_refused_and_what_is_advised_fits():
    options = (*TINY, "stage=[autoencoder_icons]", "stage.autoencoder.loss.discriminator=null")
    whole = planned(*options)["autoencoder"]
    assert whole.refusal is None
    gib = 0.7 * total_memory(whole) / 2**30
    small = (*options, f"hardware.memory={gib}", "hardware.reserve=0")
    refusal = planned(*small)["autoencoder"].refusal
    advice = (
        "images at once fit, and more with activation_checkpointing=true: type stage.autoencoder.trainer.accumulate_"
    )
    assert advice in refusal
    advised = refusal.partition(": type ")[2].partition(",")[0]
    made = planned(*small, advised)["autoencoder"]
    assert made.refusal is None
    assert total_memory(made) <= gib * 2**30
    more = refusal.rpartition("gpus=")[2]
    assert planned(*small, f"gpus={more}")["autoencoder"].refusal is None


@pytest.mark.slow
def test_the_most_images_that_fit_are_advised_and_few_numbers_are_tried(monkeypatch):
    options = (*TINY, "stage=[autoencoder_icons]", "hardware.reserve=0", "stage.autoencoder.batch_size=240")
    tried = []

    def step_memory(workload, images, **options):
        tried.append(images)
        return counted(workload, images, **options)

    counted = stage_plan.step_memory
    monkeypatch.setattr(stage_plan, "step_memory", step_memory)
    whole = total_memory(planned(*options)["autoencoder"])
    (batch,) = tried
    tried.clear()
    refusal = planned(*options, f"hardware.memory={0.05 * whole / 2**30}")["autoencoder"].refusal
    found = int(re.search(r"; (\d+) images at once fit", refusal)[1])
    divisors = [number for number in range(1, batch) if batch % number == 0]
    assert len(divisors) > 15
    assert len(tried) <= 5, "not one after the other"
    larger = [number for number in divisors if number > found][:1]
    for number in [found, *larger]:
        accumulate = f"stage.autoencoder.trainer.accumulate_grad_batches={batch // number}"
        fits = planned(*options, f"hardware.memory={0.05 * whole / 2**30}", accumulate)["autoencoder"].refusal is None
        assert fits == (number == found)


@pytest.mark.parametrize("first", [1, 3, 5, None])
@pytest.mark.parametrize("border", range(7))
def test_the_least_number_that_fits_is_found_wherever_the_search_begins(border, first):
    choices = [1, 2, 3, 4, 5]
    expected = next((choice for choice in choices if choice >= border), None)
    assert stage_plan.least_that_fits(choices, lambda choice: choice >= border, first=first) == expected
    assert stage_plan.least_that_fits([], lambda choice: True, first=None) is None


def test_a_discriminator_that_never_starts_is_not_counted():
    """Its first step is one behind the last of the training; the step before is the last at which it takes part."""
    stage = (*TINY, "stage=[autoencoder_icons]", "stage.autoencoder.trainer.max_steps=40")
    last, never = (planned(*stage, f"stage.autoencoder.loss.start_step={start}")["autoencoder"] for start in (39, 40))
    without = planned(*stage, "stage.autoencoder.loss.discriminator=null")["autoencoder"]
    rows = {
        name: {row.name: row.value for row in never.sections[name]} for name in ("parameters", "operations of an image")
    }
    assert not any("discriminator" in name for names in rows.values() for name in names)
    assert {**never.sections, "time": []} == {**without.sections, "time": []}
    assert any("discriminator" in row.name for row in last.sections["parameters"])
    assert "not counted: the discriminator, which would start at step 40, and training ends before" in never.lines
    assert never.find("time", "a step") < last.find("time", "a step")


def test_what_does_not_fit_on_this_machine_is_not_timed(monkeypatch):
    monkeypatch.setattr(stage_plan, "predict_step", None)
    made = planned(*DIFFUSION, "hardware=cpu", "hardware.memory=0.0001", "data.cache_latents=false")["diffusion"]
    assert made.refusal is not None
    assert "not measured: the time of a step, which does not fit in the memory of this machine" in made.lines


@pytest.mark.usefixtures("memory_is_not_counted")
def test_operators_of_steps_with_and_without_the_discriminator_are_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(calibrate, "time_call", lambda call, device: timed.append(call) or 1.0)
    monkeypatch.setattr(calibrate, "time_update", lambda workload, device: 0.0)
    options = (*TINY, "stage=[autoencoder_icons]", "hardware=cpu", "stage.autoencoder.trainer.max_steps=40")
    both = planned(*options, "stage.autoencoder.loss.start_step=10")["autoencoder"]
    assert len(timed) == len(set(timed)) > 50
    ends = [planned(*options, *last)["autoencoder"].find("time", "a step") for last in (
        ["stage.autoencoder.loss.start_step=0"], ["stage.autoencoder.loss.discriminator=null"])]  # fmt: skip
    assert both.find("time", "a step") == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_activation_checkpointing_is_advised_where_nothing_else_fits():
    options = (
        "experiment=txt2img",
        "stage=[autoencoder_icons]",
        "stage.autoencoder.batch_size=2",
        "hardware.reserve=0",
    )
    least = (*options, "stage.autoencoder.trainer.accumulate_grad_batches=2")
    kept, recomputed = (
        total_memory(planned(*least, f"activation_checkpointing={on}")["autoencoder"]) for on in ("false", "true")
    )
    assert recomputed < kept
    small = (*options, f"hardware.memory={(recomputed + kept) / 2 / 2**30}")
    refusal = planned(*small)["autoencoder"].refusal
    assert " images at once fit where the inside of blocks is computed again in the backward pass: type " in refusal
    assert planned(*small, *refusal.partition(": type ")[2].split())["autoencoder"].refusal is None


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="is not a multiple of accumulate_grad_batches 1 times 3 processes"):
        planned("experiment=txt2img", "gpus=3")


@pytest.mark.usefixtures("memory_is_not_counted")
def test_caching_is_judged():
    def advice(*options):
        lines = planned(*DIFFUSION, "data.cache_latents=false", *options)["diffusion"].lines
        return next(line for line in lines if line.startswith("cache the latents"))

    assert "yes: the encoder takes" in advice("images=10")
    assert "no, it is hardly worth it" in advice("images=1e9")
    assert "data.crop=random" in advice("data.crop=random", "images=10")
    assert "give images=NUMBER" in advice()
    lines = planned(*DIFFUSION, "images=10", "data.cache_latents=false", "alignment=repa")["diffusion"].lines
    assert any("ldm.encode" in line and line.endswith(" alignment=repa") for line in lines), "features are cached, too"
    lines = planned(*DIFFUSION)["diffusion"].lines
    assert "cache the latents: training reads cached ones already" in lines
    shards = ["data=moments", "data.cache_latents=false", "data.train=a", "data.val=b"]
    lines = planned(*TINY, *shards)["diffusion"].lines
    assert "cache the latents: training reads cached ones already" in lines, "those that somebody else encoded"


@pytest.mark.slow
def test_cached_latents_are_as_large_as_those_that_are_written():
    made = planned("experiment=stable_diffusion_2", "autoencoder.ckpt=x", "gpus=64", "data.flip=false", "data.size=256")
    disk = {row.name: row.value for row in made["diffusion"].sections["disk"]}
    assert disk["cached latents of an image"] == pytest.approx(33_000, rel=0.05)  # 8 x 32 x 32 numbers in fp32
    assert disk["cached tokens of an image"] == 77 * 1024 * 4


def test_figures_are_written_but_nobody_elses_file_is_replaced(tmp_path, capsys):
    out = tmp_path / "plan.json"
    config = config_of(*DIFFUSION, f"out={out}", "gpus=2")
    main(config)
    content = json.loads(out.read_text())
    row = content["stages"]["diffusion"]["time"]["a step"]
    assert (row["unit"], row["basis"]) == ("s", "estimated")
    assert content["gpus"] == 2
    main(config_of(*DIFFUSION, f"out={out}"))
    assert json.loads(out.read_text())["gpus"] == 1
    out.write_text("mine")
    with pytest.raises(ValueError, match="was not written by this program"):
        main(config)
    assert out.read_text() == "mine"
    assert "stage diffusion" in capsys.readouterr().out


def test_the_plan_of_a_stage_that_can_never_fit_is_printed_but_not_written(tmp_path, capsys):
    out = tmp_path / "plan.json"
    with pytest.raises(ValueError, match="one image at once needs"):
        main(config_of(*DIFFUSION, "hardware.memory=0.0001", f"out={out}"))
    assert "memory of a device" in capsys.readouterr().out
    assert not out.exists()


def test_the_next_command_names_the_devices():
    config = config_of("experiment=txt2img_shards", "gpus=16")
    command = next_command(config)
    assert "data.train=SHARDS data.val=SHARDS trainer=ddp trainer.devices=8 trainer.num_nodes=2" in command


def test_an_unknown_text_encoder_is_reported():
    with pytest.raises(ValueError, match="the architecture of 'nobody/nothing' is neither on this machine nor known"):
        planned(*TINY, "conditioner=huggingface", "conditioner.name=nobody/nothing")


@pytest.mark.e2e
def test_the_program_predicts_and_measures_on_this_machine(tmp_path):
    out = tmp_path / "plan.json"
    text = forked("-m", "ldm.plan", *TINY, "hardware=cpu", "measure=true", f"out={out}", "images=10e2")
    assert "measured on this machine" in text
    assert "next: python train.py experiment=txt2img debug=tiny" in text
    content = json.loads(out.read_text())
    for stage in content["stages"].values():
        assert stage["measured on this machine"]["a step"]["value"] > 0
        assert stage["time"]["a step"]["note"].startswith("the sum of")
        assert "not measured" not in stage["time"]["a step"]["note"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (7.677e-05, "s", "76.77 µs"),
        (0.25, "s", "250.00 ms"),
        (1.5, "s", "1.50 s"),
        (2e-6, "days", "< 0.01 days"),
        (0.01, "h", "0.01 h"),
        (12.34, "days", "12.34 days"),
        (2**21, "bytes", "2.00 MiB"),
    ],
)
def test_figures_are_shown_in_units_that_can_be_read(value, unit, text):
    assert shown(value, unit) == text
