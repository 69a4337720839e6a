"""`python -m ldm.interop.export ckpt=RUN out=FOLDER`; its options are in configs/interop_export.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("interop_export", "ldm.cli.interop_export:run")
