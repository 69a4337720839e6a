"""The processes of a run, and the other programs of the machine."""
