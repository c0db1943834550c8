"""The inputs of scripts/bad_inputs.py are all refused, or named in a warning."""

import subprocess
import sys

import pytest

from tests.support.programs import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "programs"])
def test_every_bad_input_is_refused(kind):
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.bad_inputs", f"--only={kind}"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0 and "0 not refused" in ran.stdout, ran.stdout[-3000:] + ran.stderr[-2000:]
