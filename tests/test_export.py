"""The SavedModel: raw images in, the student's probabilities out, in a process that has no kd_keras."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kd_keras.export import saved_model
from tests.networks import CLASSES, SHAPE, convolutional

RAW = np.random.default_rng(0).integers(0, 256, (20, *SHAPE)).astype("uint8")
CHECK = Path(__file__).parent.parent / "scripts" / "check_saved_model.py"


def normalise(images):
    return (images - 0.5) / 0.25


def expected(model):
    return np.array(keras.ops.softmax(model(normalise(RAW / np.float32(255)))))


def test_it_serves_in_a_fresh_process(tmp_path):
    model = convolutional(normalised=True)
    difference = saved_model(model, tmp_path / "out", image_shape=SHAPE, normalise=normalise, sample=RAW)
    assert difference <= 1e-6
    np.savez(tmp_path / "out" / "check.npz", images=RAW, classes=expected(model).argmax(-1))
    ran = subprocess.run([sys.executable, CHECK, tmp_path / "out"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0 and "20 of 20 images" in ran.stdout and "kd_keras not loaded" in ran.stdout, ran.stderr


def test_the_check_can_fail(tmp_path):
    model = convolutional()
    saved_model(model, tmp_path / "out", image_shape=SHAPE, normalise=normalise, sample=RAW)
    wrong = (expected(model).argmax(-1) + 1) % CLASSES
    np.savez(tmp_path / "out" / "check.npz", images=RAW, classes=wrong)
    ran = subprocess.run([sys.executable, CHECK, tmp_path / "out"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 1 and "0 of 20 images" in ran.stdout


def test_an_export_that_differs_is_refused_and_the_old_one_stays(tmp_path):
    saved_model(convolutional(), tmp_path / "out", image_shape=SHAPE, normalise=normalise, sample=RAW)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="SavedModel within -1"):
        saved_model(convolutional(), tmp_path / "out", image_shape=SHAPE, normalise=normalise, sample=RAW, tolerance=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
