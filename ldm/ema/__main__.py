"""`python -m ldm.ema run=RUN length=0.075`; its options are in configs/ema.yaml."""

from ldm.cli.ema import main

if __name__ == "__main__":
    main()
