"""`python -m ldm.compare RUN RUN`; its options are in configs/compare.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("compare", "ldm.compare.program:main", words="runs", paths=True)
