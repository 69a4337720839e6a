"""The defaults of what is measured, where a command does not say it."""

from omegaconf import DictConfig, OmegaConf

from ldm.config import CONFIGS


def offline_metric() -> DictConfig:
    """Return the config of the metrics that need no download."""
    found = OmegaConf.load(CONFIGS / "metric" / "offline.yaml")
    assert isinstance(found, DictConfig)
    return found
