"""Runs as training leaves them, made without training, and trainings that are interrupted."""

import contextlib
import json

import keras
import pytest

from kd_keras import callbacks
from tests.support.networks import convolutional


def trained(directory, name, width, *settings):
    """A run as training leaves it, of a network that has learned nothing."""
    keras.utils.set_random_seed(width)
    layers = [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), convolutional(width, 10, (8, 8, 1))]
    (directory / name).mkdir()
    keras.Sequential(layers, name=name).save(directory / name / "model.keras")
    lines = ["--data=digits", *settings, "--test_split=test[:200]", f"--data_dir={directory / 'data'}"]
    (directory / name / "flags.txt").write_text("\n".join(lines) + "\n")
    (directory / name / "metrics.csv").write_text("epoch,hard,loss,val_accuracy\n0,2.3,2.3,NA\n1,2.2,2.2,0.125\n")
    (directory / name / "result.json").write_text(json.dumps({"data": {}, "metric": "accuracy", "last": {}}))
    return directory / name


def saved_run(directory, network, task, class_names):
    """A complete run of a network for a task, made without training."""
    directory.mkdir()
    network.save(directory / "model.keras")
    (directory / "flags.txt").write_text(f"--data=digits\n--task={task}\n")
    data = {"class_names": list(class_names), "image_shape": network.input_shape[1:]}
    (directory / "result.json").write_text(json.dumps({"task": task, "data": data, "metric": "", "last": {}}))
    return directory


@contextlib.contextmanager
def interruption(monkeypatch, epoch):
    """In this context a training must end by an interruption at the end of an epoch, before it is saved."""

    def stop(self, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.NonFinite, "on_epoch_end", stop)
        yield
