"""`python -m ldm.ema run=RUN length=0.075`; its options are in configs/ema.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("ema", "ldm.ema.average:main")
