"""`python -m ldm.cli.openmoji size=64`; its options are those of `source` in configs/data/openmoji.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program
from ldm.config import build


def main() -> None:
    """Write the shards of this data set."""
    program("openmoji", run, under="data.source")


def run(config: DictConfig) -> None:
    """Write the data set that a config describes, and say how large it is."""
    from ldm.data.sources.openmoji import report  # here, since help and mistakes need no large libraries

    report(build(config.data.source))


if __name__ == "__main__":
    main()
