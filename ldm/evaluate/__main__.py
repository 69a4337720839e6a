"""`python -m ldm.evaluate ckpt=RUN images=FOLDER out=FILE`; its options are in configs/evaluate.yaml."""

from ldm.cli.evaluate import main

if __name__ == "__main__":
    main()
