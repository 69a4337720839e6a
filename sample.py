"""Draw images: `python sample.py ckpt=runs/txt2img prompt="a red heart on a white background"`, or `--help`."""

from ldm.cli.sample import main

if __name__ == "__main__":
    main()
