"""The evaluation of MLPerf's benchmark, which adds its scores to the log of the training."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from omegaconf import DictConfig

from ldm.evaluate.curve import step_of
from ldm.evaluate.generation import GenerationProtocol
from ldm.evaluate.own import Results
from ldm.evaluate.processes import Place
from ldm.logger.mllog_file import LOG_FILE
from ldm.logger.offline_evaluation import append_evaluation, append_run_stop, eval_samples_of

log = logging.getLogger(__name__)


class BenchmarkProtocol(GenerationProtocol):
    """Measures generated images, and adds FID and CLIP score of a step's checkpoint to the `mllog.txt` of its stage.

    Scores of another number of images than the log says (`eval_samples`) are not added.

    Args:
        name: See `Protocol`; so are published and source.
    """

    def run(self, config: DictConfig) -> list[Results]:
        """See `Protocol.run`."""
        results = super().run(config)
        if Place.here().rank == 0:
            for file in {file for found in results if (file := _log_of(found["of"]))}:
                status = append_run_stop(file)
                log.info("%s: %s", file, status or "not ended, since checkpoints are not evaluated yet")
        return results

    def of_model(self, config: DictConfig, ckpt: str, out: Path) -> Results:
        """See `GenerationProtocol.of_model`."""
        file, step = _log_of(ckpt), step_of(ckpt)
        wanted = 0 if file is None else eval_samples_of(file)
        began = time.time()
        results = super().of_model(config, ckpt, out)
        if Place.here().rank or file is None or step is None:
            return results
        count, fid, clip = results["count"], results["scores"].get("fid"), results["scores"].get("clip_score")
        if count != wanted:
            log.warning("not added to %s: scores of %d images, where it says %d", file, count, wanted)
        elif fid is None or clip is None:
            log.warning("not added to %s: only fid and clip_score together are", file)
        else:
            append_evaluation(file, step=step, fid=fid, clip=clip, began=began, ended=time.time())
        return results


def _log_of(ckpt: str) -> Path | None:
    """Return the log of the stage that a step's checkpoint belongs to; None where there is none."""
    file = Path(ckpt).resolve().parents[1] / LOG_FILE
    return file if step_of(ckpt) is not None and file.is_file() else None
