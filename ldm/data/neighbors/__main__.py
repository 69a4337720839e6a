"""`python -m ldm.data.neighbors data.train=SHARDS data.val=SHARDS out=DIR`; its options are in configs/neighbors.yaml."""

from ldm.cli.neighbors import main

if __name__ == "__main__":
    main()
