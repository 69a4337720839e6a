"""`python -m ldm.fetch lpips clip_l out=DIR`; its options are in configs/fetch.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("fetch", "ldm.fetch.program:main", words="names")
