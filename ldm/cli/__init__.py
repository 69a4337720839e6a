"""The programs: what `train.py`, `sample.py` and `python -m ldm.<part>` do with a command line."""
