"""`python -m ldm.plan experiment=NAME gpus=8 images=10e6 hardware=h100`; its options are in configs/plan.yaml."""

from ldm.cli.plan import main

if __name__ == "__main__":
    main()
