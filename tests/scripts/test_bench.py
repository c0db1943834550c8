"""The measurements of scripts/bench: what they compute from times, and (slow) that each program runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.bench.measuring import in_turns, ratio

ROOT = Path(__file__).parent.parent.parent


def test_turns_medians_and_ratios():
    order = []

    def contestant(name, seconds):
        def run(steps):
            order.append(name)
            return [seconds, 3 * seconds, 2 * seconds][:steps]

        return run

    times = in_turns({"a": contestant("a", 1.0), "b": contestant("b", 2.0)}, rounds=3, steps=3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first run of both, then in alternating order
    assert times["a"].rounds == [2.0] * 3 and times["b"].fastest == 2.0
    assert ratio(times["b"].rounds, times["a"].rounds) == (2.0, 2.0, 2.0)
    assert np.allclose(ratio([1, 2, 3], [1, 1, 1]), (2, 1.5, 2.5))


PEAKS = """
import tensorflow as tf
from scripts.bench.measuring import peak

kept = tf.ones((1024, 1024))

def work():
    for _ in range(3):
        both = [kept + 1, kept + 2]
        del both

print(peak(work), peak(work, looks=3))
"""


def test_a_peak_counts_what_is_there_at_one_time():
    """Of six tensors of 4 MB, two exist at the same time; what exists before does not count.

    It runs in a process of its own because the work of other tests would be counted too, and with oneDNN, whose
    allocator counts; TensorFlow only turns it on by default on some processors.
    """
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}
    command = [sys.executable, "-c", PEAKS]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    sizes = [float(size) for size in ran.stdout.split()]
    assert len(sizes) == 2, ran.stderr[-2000:]
    for size in sizes:
        assert 2 * 2**22 <= size < 2.5 * 2**22


@pytest.mark.slow
@pytest.mark.parametrize(
    "given, wanted",
    [
        (
            ["bench.step", "--pair=resnet8:resnet8:16:4", "--rounds=1", "--steps=1", "--memory"],
            "kd_keras, recorded / baseline",
        ),
        (["bench.methods", "--method=KD", "--rounds=1", "--steps=1"], "| KD |"),
        (["bench.methods", "--method=KD", "--growth=classes"], "| KD |"),
        (["bench.methods", "--method=AdaDistill", "--method=CIRKD", "--rounds=1", "--steps=1"], "| CIRKD |"),
    ],
)
def test_a_bench_runs(given, wanted):
    command = [sys.executable, "-m", f"scripts.{given[0]}", *given[1:]]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert wanted in ran.stdout
