"""`python -m ldm.interop.export ckpt=RUN out=FOLDER`; its options are in configs/interop_export.yaml."""

from ldm.cli.interop_export import main

if __name__ == "__main__":
    main()
