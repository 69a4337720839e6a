import pytest

from ldm.sampler.noise import SeededNoise
from tests.sampler.toolbox import START


@pytest.fixture
def same_noise(monkeypatch):
    """Schedulers draw what the samplers of `trajectory` and `step_by_step` draw."""
    noise = SeededNoise([0])
    for scheduler in (
        "ddim",
        "ddpm",
        "dpmsolver_multistep",
        "euler_discrete",
        "euler_ancestral_discrete",
        "flow_match_euler_discrete",
    ):
        module = f"diffusers.schedulers.scheduling_{scheduler}"
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise.draw(START.shape[1:]))
