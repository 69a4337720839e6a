"""`python train.py experiment=txt2img`; its options are in configs/train.yaml."""

import logging
from functools import partial

from omegaconf import DictConfig

from ldm.cli.entry import program
from ldm.config import is_rank_zero
from ldm.options.arguments import command_name
from ldm.options.sweep import SweptRuns

log = logging.getLogger(__name__)


def main() -> None:
    """Train a model, or the models of a sweep, whose scores are listed at its end."""
    start = f"no experiment was named; type {command_name('train')} experiment=txt2img, or --help for more"
    swept = SweptRuns()
    try:
        program("train", partial(run, swept=swept), missing={"name": start})
    finally:
        if swept.folders and is_rank_zero():
            _print_report(swept)


def run(config: DictConfig, swept: SweptRuns) -> float | None:
    """Train the stages of a config; return the score that a sweep asks for, if it does."""
    from ldm.training.run import train  # here, since help and mistakes need no large libraries

    swept.add(config.paths.output_dir, config.optimized_metric)
    return train(config)


def _print_report(swept: SweptRuns) -> None:
    """Print the results of a sweep; any error is only logged as a warning, since the runs themselves matter more."""
    try:
        from ldm.compare.sweep import beside, print_report

        print_report(swept.folders if swept.study is None else beside(swept.study), swept.metric, swept.direction)
    except Exception as error:
        log.warning("the runs of the sweep could not be listed (%s: %s)", type(error).__name__, error)
