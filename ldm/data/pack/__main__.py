"""`python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`; its options are in configs/pack.yaml."""

if __name__ == "__main__":  # the import is here, since the processes that pack run this file when they start
    from ldm.cli.entry import program

    program("pack", "ldm.data.pack.packer:main")
