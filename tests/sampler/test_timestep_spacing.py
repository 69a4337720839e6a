import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from ldm.diffusion.schedule import (
    CosineSchedule,
    EDMSchedule,
    LinearSchedule,
    RectifiedFlowSchedule,
    ScaledLinearSchedule,
    ZeroTerminalSchedule,
)
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import (
    KarrasSpacing,
    LeadingSpacing,
    LogSNRSpacing,
    QuadraticSpacing,
    TrailingSpacing,
    UniformSpacing,
)
from ldm.sampler.trajectory import END
from tests.parts import SCHEDULES, SPACINGS, name, noise_levels_at
from tests.sampler.gaussian import Gaussian
from tests.sampler.toolbox import OPTIONS, OURS


def test_leading_refuses_to_start_far_from_noise():
    for steps, start in ((400, "0.80"), (1, "0.00")):
        with pytest.raises(ValueError, match=f"{steps} steps would start at t = {start}"):
            LeadingSpacing().times(steps, ScaledLinearSchedule())


def test_grids_begin_where_there_is_signal_or_nothing_but_noise():
    assert float(CosineSchedule().exact(UniformSpacing().times(25, CosineSchedule()))[0][0]) == pytest.approx(
        0.02, rel=1e-3
    )
    for schedule in (
        ScaledLinearSchedule(),
        LinearSchedule(),
        EDMSchedule(),
        RectifiedFlowSchedule(),
        ZeroTerminalSchedule(CosineSchedule()),
    ):
        assert float(UniformSpacing().times(25, schedule)[0]) == 1


@pytest.mark.parametrize("grid", SPACINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_grids_fall_from_one_to_zero(grid, schedule):
    for steps in (2, 7, 50, 250) if isinstance(grid, LeadingSpacing) else (1, 2, 7, 50, 250):
        times = grid.times(steps, schedule)
        assert times.shape == (steps + 1,)
        assert (times.diff() < 0).all()
        assert float(times[-1]) == 0
        assert 0 < float(times[0]) <= 1
        if not isinstance(grid, LeadingSpacing):
            signal = schedule.exact(torch.stack([times[0], torch.ones_like(times[0])]))[0]
            assert float(signal.diff().abs()) < 0.021, "all but pure noise"
    levels = [
        noise_level.edm_sigma
        for noise_level in noise_levels_at(schedule, *KarrasSpacing().times(20, schedule).tolist())
    ]
    assert levels[-1] == END.edm_sigma == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_grids_are_their_formulas(schedule):
    """Also where a schedule is gone along from a little before its end."""
    times = KarrasSpacing(rho=5.0).times(30, schedule)[:-1]
    steps = (-0.5 * schedule.log_snr(times)).exp() ** (1 / 5)
    torch.testing.assert_close(steps.diff(), steps.diff()[:1].expand(29), rtol=1e-5, atol=0)
    even = schedule.log_snr(LogSNRSpacing().times(30, schedule)[:-1])
    torch.testing.assert_close(even.diff(), even.diff()[:1].expand(29), rtol=1e-5, atol=0)
    whole = TrailingSpacing().times(30, schedule) * 1000
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-9)
    if schedule is not SCHEDULES[2]:
        assert QuadraticSpacing().times(4, schedule).tolist() == [1.0, 0.5625, 0.25, 0.0625, 0.0]


def test_discrete_grids_are_those_of_diffusers():
    for spacing, grid, options in (
        ("trailing", TrailingSpacing(), {}),
        ("leading", LeadingSpacing(), {"steps_offset": 1}),
    ):
        for steps in (7, 20, 30, 50, 999):
            scheduler = DDIMScheduler(**OPTIONS, timestep_spacing=spacing, **options)
            scheduler.set_timesteps(steps)
            ours = (grid.starts(steps, OURS) * 1000 - 1).round().long()
            assert ours.tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("wanted", [20, 30, 50, 60, 75, 250, 300])
def test_the_leading_grid_can_be_that_of_the_papers_code(wanted):
    """Which for 30, 60, 75 and 300 steps makes 31, 63, 77 and 334: every k-th time to the end, and one later."""
    theirs = [index + 1 for index in range(0, 1000, 1000 // wanted)]
    for grid in [LeadingSpacing(stride=1000 // wanted)] + [LeadingSpacing()] * (1000 % wanted == 0):
        ours = (grid.starts(len(theirs), OURS) * 1000 - 1).round().long()
        assert ours.flip(0).tolist() == [min(index, 999) for index in theirs]
    assert len(theirs) == {30: 31, 60: 63, 75: 77, 300: 334}.get(wanted, wanted)


@pytest.mark.parametrize(
    ("grid", "option"), [(KarrasSpacing(), "use_karras_sigmas"), (LogSNRSpacing(), "use_lu_lambdas")], ids=name
)
def test_grids_of_noise_levels_are_those_of_diffusers(grid, option):
    for steps in (2, 7, 25):
        scheduler = DPMSolverMultistepScheduler(**OPTIONS, **{option: True}, final_sigmas_type="zero")
        scheduler.set_timesteps(steps)
        levels = (-0.5 * OURS.log_snr(grid.starts(steps, OURS))).exp()
        torch.testing.assert_close(levels.float(), scheduler.sigmas[:-1], rtol=1e-3, atol=0)


def test_a_grid_without_enough_times_says_so():
    with pytest.raises(ValueError, match="TrailingSpacing has no 1500 different times; use fewer sampler.steps"):
        DDIM(1500, timestep_spacing=TrailingSpacing()).sample(Gaussian(OURS, 1), OURS, SeededNoise([0]), (1, 2, 2))
    with pytest.raises(ValueError, match="0 < last < first <= 1"):
        KarrasSpacing(first=0.1, last=0.2)
    with pytest.raises(
        ValueError, match="LeadingSpacing has no 1500 different times 1 apart among 1000; use at most 1000 sampler"
    ):
        LeadingSpacing().times(1500, OURS)
    with pytest.raises(
        ValueError, match="LeadingSpacing has no 32 different times 33 apart among 1000; use at most 31 sampler"
    ):
        LeadingSpacing(stride=33).times(32, OURS)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (LeadingSpacing, "offset", -1),
        (LeadingSpacing, "stride", 0),
        (KarrasSpacing, "rho", 0),
        (KarrasSpacing, "last", 0.0),
        (LogSNRSpacing, "first", 1.5),
    ],
)
def test_options_of_grids_that_cannot_be_are_refused(kind, option, value):
    with pytest.raises(ValueError, match=f"timestep_spacing.{option}={value} cannot be; give "):
        kind(**{option: value})
