"""`python -m ldm.report RUN`; its options are in configs/report.yaml."""

from ldm.cli.report import main

if __name__ == "__main__":
    main()
