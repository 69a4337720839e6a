"""`python -m ldm.cli.openmoji size=64`; its options are those of `source` in configs/data/openmoji.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("openmoji", "ldm.data.sources.openmoji:main", under="data.source")
