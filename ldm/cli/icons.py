"""`python -m ldm.cli.icons size=64`; its options are those of `source` in configs/data/icons.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("icons", "ldm.data.sources.icons:main", under="data.source")
