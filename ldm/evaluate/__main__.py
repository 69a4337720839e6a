"""`python -m ldm.evaluate ckpt=RUN out=FOLDER`; its options are in configs/evaluate.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("evaluate", "ldm.evaluate.program:evaluate")
