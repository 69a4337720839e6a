"""`python -m ldm.evaluation ckpt=RUN images=FOLDER out=FILE`; its options are in configs/evaluation.yaml."""

from ldm.cli.evaluation import main

if __name__ == "__main__":
    main()
