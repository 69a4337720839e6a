"""`python -m ldm.fetch lpips clip_l out=DIR`; its options are in configs/fetch.yaml."""

from ldm.cli.fetch import main

if __name__ == "__main__":
    main()
