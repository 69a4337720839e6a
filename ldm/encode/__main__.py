"""`python -m ldm.encode autoencoder.ckpt=RUN out=DIR`; its options are in configs/encode.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("encode", "ldm.encode.program:main")
