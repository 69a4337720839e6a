"""`python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`; its options are in configs/pack.yaml."""

if __name__ == "__main__":  # the import is here, for the processes that pack begin by running this file, too
    from ldm.cli.pack import main

    main()
