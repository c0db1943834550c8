"""The programs: `python -m experiments.<name>` with the name of a module here; `--help` describes each."""

import os
import sys

# Silences TensorFlow's notes about its start, which it prints before any setting in Python can.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if sys.argv[:1] == ["-m"]:  # this package is imported to find the module of a program
    from experiments.startup import import_quietly

    import_quietly()
