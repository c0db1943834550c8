"""The programs: `python -m experiments.train`, `distill`, `evaluate` and `export`."""
