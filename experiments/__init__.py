"""The programs: `python -m experiments.<name>` with the name of a module here; `--help` describes each."""
