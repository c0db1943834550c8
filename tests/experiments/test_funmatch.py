"""Patient and consistent teaching: its flags, and a recording that repeats mixed batches."""

import keras
import numpy as np

from experiments.flags.recipes import flag_options
from tests.support.programs import SMALL, program

CONFIG = "experiments/configs/funmatch"


def test_funmatch_is_pure_distillation_on_mixed_views():
    lines = open(f"{CONFIG}.flags").read().splitlines()
    options = flag_options([line for line in lines if line.startswith("--") and not line.startswith("--student")])
    assert options["methods"] == ["kd(temperature=1, weight=1)"] and options["hard_weight"] == 0
    assert options["mixup"] == 1 and options["resized_crop"] and options["flip"] and options["schedule"] == "cosine"


def test_a_student_of_recorded_mixed_batches_is_that_of_the_live_teacher(data_dir, tmp_path):
    program("train", "--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={tmp_path / 'teacher'}")
    small = [*SMALL[:3], "--batch_size=24", data_dir, "--views=2"]  # the last batch of an epoch is smaller
    views, teacher = [f"--flagfile={CONFIG}_views.flags", *small], f"--teacher={tmp_path / 'teacher'}"
    program("record", *views, teacher, f"--output={tmp_path / 'recording'}")
    student = [f"--flagfile={CONFIG}.flags", *small, "--student=mlp(hidden=(8,))", "--epochs=4", "--test_every=4"]
    program("distill", *student, teacher, f"--run={tmp_path / 'live'}")
    program("distill", *student, f"--recording={tmp_path / 'recording'}", f"--run={tmp_path / 'recorded'}")
    live, recorded = (keras.saving.load_model(tmp_path / run / "model.keras") for run in ("live", "recorded"))
    for a, b in zip(live.get_weights(), recorded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    other = program(
        "distill",
        *student,
        "--mixup=0",
        f"--recording={tmp_path / 'recording'}",
        f"--run={tmp_path / 'other'}",
        check=False,
    )
    assert other.returncode == 2 and "mixup" in other.stderr
