"""`python -m ldm.interop.load SOURCE out=FILE`; its options are in configs/interop_load.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("interop_load", "ldm.interop.load.program:main", words="sources", paths=True)
