"""`python -m ldm.plan experiment=NAME gpus=8 images=10e6 hardware=h100`; its options are in configs/plan.yaml."""

from ldm.cli.entry import program

UNNEEDED = ("data.train", "data.val")
"""Options that train.py needs and a plan does not."""

if __name__ == "__main__":
    start = "no experiment was named; type python -m ldm.plan experiment=txt2img, or --help for more"
    program("plan", "ldm.plan.program:main", missing={"name": start}, unneeded=UNNEEDED)
