"""`python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`; its options are in configs/pack.yaml."""

if __name__ == "__main__":  # imports are here, for the processes that pack begin by running this file, too
    from ldm.config import command, resolved
    from ldm.data.pack.packer import Packer

    command("pack", lambda config: print(Packer(**resolved(config)).write().table()))
