"""`python -m ldm.evaluate ckpt=RUN out=FOLDER`; its options are in configs/evaluate.yaml."""

from ldm.cli.evaluate import main

if __name__ == "__main__":
    main()
