"""The report of a run: one HTML file with its scores, curves, pictures, commands, machine and config."""
