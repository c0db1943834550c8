"""What the tests of the schemes share: a tiny training, and a way to interrupt one."""

import pytest

import kd_keras as kd


@pytest.fixture(scope="package")
def small(data_dir):
    """Options of a training on 64 digits for two epochs."""
    place = data_dir.partition("=")[2]
    return {
        "data": "digits", "data_dir": place, "train_split": "train[:64]", "test_split": "test[:64]", "epochs": 2,
        "batch_size": 32,
    }  # fmt: skip


@pytest.fixture(scope="package")
def teacher(small, tmp_path_factory):
    return kd.train(model="mlp(hidden=(16,))", **small, run=tmp_path_factory.mktemp("schemes") / "teacher")


@pytest.fixture
def interrupt(monkeypatch):
    """A function that interrupts the training of a run after its first epoch, as Ctrl-C does."""

    def prepare(name):
        before = kd.callbacks.NonFinite.on_epoch_end

        def stop(self, epoch, logs=None):
            if epoch == 1 and self.directory is not None and self.directory.name == name:
                raise KeyboardInterrupt
            before(self, epoch, logs)

        monkeypatch.setattr(kd.callbacks.NonFinite, "on_epoch_end", stop)
        return monkeypatch

    return prepare
