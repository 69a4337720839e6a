"""The stages of a config, for tests that need no whole run."""

from ldm.callback.signals import Signals
from ldm.training.options import RunContext
from ldm.training.run import make_stages
from ldm.training.validate import leave_out_leftovers
from tests import configs


def composed(*overrides):
    """A config of train.py as a run sees it."""
    config = configs.composed("train", *overrides)
    leave_out_leftovers(config, [])
    return config


def stages(config, folder="nowhere"):
    """The stages of a config by their names, not yet built."""
    return {stage.name: stage for stage in make_stages(RunContext(config, folder))}


def built(name, config, folder):
    """One stage of a config, built."""
    stage = stages(config, folder)[name]
    stage.build(Signals(), {name: stage.all_panels})
    return stage
