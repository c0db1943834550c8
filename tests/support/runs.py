"""Runs as training leaves them, made without training."""

import keras

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
    return directory / name
