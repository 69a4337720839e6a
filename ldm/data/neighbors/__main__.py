"""`python -m ldm.data.neighbors data.train=SHARDS data.val=SHARDS out=DIR`; its options are in configs/neighbors.yaml."""

from ldm.cli.entry import program

if __name__ == "__main__":
    program("neighbors", "ldm.cli.neighbors:run")
