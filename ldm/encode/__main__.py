"""`python -m ldm.encode autoencoder.ckpt=RUN out=DIR`; its options are in configs/encode.yaml."""

from ldm.cli.encode import main

if __name__ == "__main__":
    main()
