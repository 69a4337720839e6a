"""Train: `python train.py experiment=txt2img`, or `python train.py --help`."""

from ldm.cli.train import main

if __name__ == "__main__":
    main()
