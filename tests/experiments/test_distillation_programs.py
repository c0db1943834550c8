"""experiments.distill and experiments.record: images without labels, recordings, frozen and several teachers."""

import csv
import json
import re
import shutil

import keras
import numpy as np
import pytest

from tests.support.programs import SMALL, program


def test_a_folder_of_unlabeled_images_trains_a_student(teacher, data_dir, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        keras.utils.save_img(folder / f"{number}.png", random.integers(0, 256, (8, 8, 3)).astype("uint8"))
    of_color = tmp_path / "teacher.keras"
    inputs = keras.Input((8, 8, 3))
    gray = keras.ops.mean(inputs, axis=-1, keepdims=True)
    keras.Model(inputs, keras.saving.load_model(teacher / "model.keras")(gray)).save(of_color)
    run = tmp_path / "student"
    few = [f"--data={folder}", f"--teacher={of_color}", "--student=mlp(hidden=(8,))", "--batch_size=8"]
    program("distill", *few, "--epochs=2", "--hard_weight=0", "--mixup=1", f"--run={run}")
    result = json.loads((run / "result.json").read_text())
    assert set(result["last"]) == {"epoch", "kd", "loss"} and np.isfinite(result["last"]["kd"])
    refused = program("distill", *few, f"--run={tmp_path / 'other'}", check=False)
    assert refused.returncode == 2 and "hard_weight=0" in refused.stderr


def test_a_recording_trains_the_student_of_the_live_run(teacher, data_dir, tmp_path):
    views = [*SMALL[:2], SMALL[4], data_dir, "--shift=1", "--views=2"]
    given = [f"--teacher={teacher}", *views, f"--output={tmp_path / 'recording'}"]
    cluster = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 1}}
    first = program("record", *given, "--shard=0/2")
    assert "but others are missing" in first.stdout and "2 views of 64 examples at 64 bytes" in first.stdout
    ran = program("record", *given, environment={"TF_CONFIG": json.dumps(cluster)})
    assert "2 views of 64 examples, logits" in ran.stdout
    assert "the checksums of all shards are correct" in program("record", *given, "--verify").stdout
    student = ["--student=mlp(hidden=(8,))", *views, SMALL[2], "--epochs=3"]
    program("distill", *student, f"--teacher={teacher}", f"--run={tmp_path / 'live'}")
    program("distill", *student, f"--recording={tmp_path / 'recording'}", f"--run={tmp_path / 'recorded'}")
    both = [f"--recording={tmp_path / 'recording'}", f"--teacher={teacher}"]
    assert "live teacher differs by" in program("distill", *student, *both, f"--run={tmp_path / 'both'}").stdout
    one, *others = (keras.saving.load_model(tmp_path / run / "model.keras") for run in ("live", "recorded", "both"))
    for other in others:
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    refused = program("distill", *student, "--shift=2", both[0], f"--run={tmp_path / 'other'}", check=False)
    assert refused.returncode == 2 and "shift=1" in refused.stderr and "shift=2" in refused.stderr


def test_a_recording_of_a_frozen_teacher_is_not_one_of_the_whole_teacher(teacher, data_dir, tmp_path):
    views = [*SMALL[:2], SMALL[4], data_dir, "--views=1", f"--teacher={teacher}"]
    half = "--teacher_precision=bfloat16"
    program("record", *views, half, f"--output={tmp_path / 'recording'}")
    given = [*views, "--student=mlp(hidden=(8,))", *SMALL[2:4], f"--recording={tmp_path / 'recording'}"]
    ran = program("distill", *given, half, f"--run={tmp_path / 'half'}")
    # The last layer computes in float32, whose rounding depends on the place of a row in its batch on some processors.
    assert float(re.search(r"the live teacher differs by (\S+)", ran.stdout)[1]) < 1e-6
    refused = program("distill", *given, f"--run={tmp_path / 'whole'}", check=False)
    assert refused.returncode == 2 and "weights: recorded" in refused.stderr


def test_contrastive_distillation_with_another_method_and_weights_by_epoch(teacher, data_dir, tmp_path):
    methods = ["--method=crd(negatives=16)", "--method=lskd(host=dkd(beta=2), weight={0: 0, 1: 9})"]
    given = [f"--teacher={teacher}", "--student=mlp(hidden=(8,))", "--hard_weight={0: 1, 1: 0.5}", *methods]
    program("distill", *given, *SMALL[:3], "--epochs=2", "--batch_size=32", data_dir, f"--run={tmp_path / 'run'}")
    rows = list(csv.DictReader(open(tmp_path / "run" / "metrics.csv")))
    assert float(rows[0]["crd"]) > 0 and "--hard_weight={0: 1, 1: 0.5}" in (tmp_path / "run" / "flags.txt").read_text()
    for epoch, (hard, lskd) in enumerate([(1, 0), (0.5, 9)]):
        row = {name: float(value) for name, value in rows[epoch].items()}
        assert row["loss"] == pytest.approx(hard * row["hard"] + 0.8 * row["crd"] + lskd * row["lskd"], rel=1e-4)


def test_several_teachers_with_weights(teacher, data_dir, tmp_path):
    twice = [f"--teacher={teacher}", f"--teacher={teacher}", "--teacher_weights=3,1", "--combine=logits"]
    ran = program("distill", "--student=mlp(hidden=(8,))", *SMALL, data_dir, *twice, f"--run={tmp_path / 'run'}")
    assert "into mlp(hidden=(8,)) (610)" in ran.stdout


def test_a_teacher_that_reads_another_range(teacher, data_dir, tmp_path):
    inputs = keras.Input((8, 8, 1))
    pixels = keras.layers.Rescaling(127.5, 127.5)(inputs)
    keras.Model(inputs, keras.saving.load_model(teacher / "model.keras")(pixels)).save(tmp_path / "symmetric.keras")
    given = ["--student=mlp(hidden=(8,))", *SMALL, data_dir]
    program("distill", *given, f"--teacher={teacher}", f"--run={tmp_path / 'pixels'}")
    symmetric = [f"--teacher={tmp_path / 'symmetric.keras'}", "--teacher_range=-1,1"]
    program("distill", *given, *symmetric, f"--run={tmp_path / 'symmetric'}")
    pixels, symmetric = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("pixels", "symmetric"))
    assert pixels["teacher_accuracy"] == symmetric["teacher_accuracy"]
    assert pixels["last"]["kd"] == pytest.approx(symmetric["last"]["kd"], rel=1e-4)


def test_several_teachers_stay_in_their_order(teacher, data_dir, tmp_path):
    second = tmp_path / "a_second"  # before "teacher" in the alphabet
    shutil.copytree(teacher, second)
    given = [f"--teacher={teacher}", f"--teacher={second}", "--teacher_weights=3,1", *SMALL, data_dir]
    program("distill", "--student=mlp(hidden=(4,))", *given, f"--run={tmp_path / 'run'}")
    lines = (tmp_path / "run" / "flags.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("--teacher=")] == given[:2]
    swapped = [given[1], given[0], *given[2:]]
    ran = program("distill", "--student=mlp(hidden=(4,))", *swapped, f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode == 2 and "another order" in ran.stderr
