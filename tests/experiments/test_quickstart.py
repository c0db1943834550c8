"""scripts/quickstart.sh from end to end, twice."""

import os
import subprocess

import pytest

from tests.support.programs import ROOT


@pytest.mark.slow
def test_the_quickstart_end_to_end(tmp_path):
    if "KD_VENV" not in os.environ:
        pytest.skip("scripts/test.sh names the environment that the quickstart installs into")
    environment = {**os.environ, "RUNS": str(tmp_path / "runs")}
    first, second = (
        subprocess.run(["bash", ROOT / "scripts" / "quickstart.sh"], capture_output=True, text=True, env=environment)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr[-3000:]
    assert "797 of 797 images classified identically, kd_keras not loaded" in first.stdout
    table = [line for line in first.stdout.partition("== 5.")[2].splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].rsplit("/", 1)[-1] for line in table[1:]] == ["teacher", "baseline", "distilled"]
    column = table[0].split(" | ").index("accuracy")
    accuracy = [float(line.split(" | ")[column]) for line in table[1:]]
    assert accuracy[0] > 0.97 and min(accuracy) > 0.9
    assert second.returncode == 0 and second.stdout.count("complete: nothing to do") == 3
