"""`python -m ldm.evaluate`: measure by a protocol, and print the scores."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from ldm.config import build
from ldm.evaluate.own import PICTURE, Results
from ldm.evaluate.parts import fit_parts
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol
from ldm.evaluate.results import lines_of

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> list[Results]:
    """Measure as the options of a command say, and print the scores.

    Args:
        config: `configs/evaluate.yaml` with the options.

    Returns:
        The results of each model.

    Raises:
        ValueError: Where options make no sense, before anything is written; or at the end, where a score cannot be measured,
            since all images have the same features.
    """
    if dropped := fit_parts(config):
        log.warning(
            "what protocol=%s says of %s is left out, since other parts are chosen",
            config.protocol.name,
            ", ".join(dropped),
        )
    protocol: Protocol = build(config.protocol)
    found = list(protocol.run(config))
    if Place.here().rank:
        return found
    for results in found:
        broken = f", {results['broken']} broken ones left out" if results["broken"] else ""
        print(f"{results['of']}: {results['count']} images{broken}")
        print("\n".join(lines_of(results)))
    print(f"all in {config.out}" + (f": look at {config.out}/{PICTURE}" if len(found) > 1 else ""))
    if collapsed := dict.fromkeys(reason for results in found for reason in results["collapsed"]):
        raise ValueError(f"{'; '.join(collapsed)}; all other scores are in {config.out}")
    return found
