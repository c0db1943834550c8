"""The programs: `python -m experiments.train`, `distill`, `evaluate`, `export`, `models`, `methods` and `exits`."""
