"""Names of files in the folder of a run, which several programs read."""

from pathlib import Path

RUNS = Path("runs")
"""The folder that runs are written into, unless another is given: `runs_dir` of configs/paths/."""

CONFIG_FILE = "config.yaml"
"""The file in a run folder with the settings of the run that it holds."""

RESULTS_FILE = "results.json"
"""The file with the scores, in a stage's folder once the stage is finished."""

CAPTIONS = ".txt"
"""Ending of the file beside a picture that says, a line each, what its images were made for."""

EARLIER_RESULTS = "results-*.json"
"""Files with the scores that a stage had before it was measured or trained further."""
