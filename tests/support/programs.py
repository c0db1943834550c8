"""The programs of experiments/ as a shell runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def program(name, *arguments, check=True, environment=()):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **dict(environment)})
    if check:
        assert ran.returncode == 0, ran.stderr[-3000:]
    return ran
