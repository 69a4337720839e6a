"""`python -m ldm.report RUN`; its options are in configs/report.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("report", "ldm.report.program:main", words="runs", paths=True)
