"""`python -m ldm.compare RUN RUN`; its options are in configs/compare.yaml."""

from ldm.cli.compare import main

if __name__ == "__main__":
    main()
