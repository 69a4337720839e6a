"""`python -m ldm.interop.load SOURCE out=FILE`; its options are in configs/interop_load.yaml."""

from ldm.cli.interop_load import main

if __name__ == "__main__":
    main()
