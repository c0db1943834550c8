"""Checkpoints: a run that stops goes on as if it had not, and a failed write leaves the old file whole."""

import multiprocessing
import resource

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.callbacks import Checkpoint, save_beside
from kd_keras.methods import KD, FitNet
from tests.networks import compiled, convolutional, examples, same, values

X, Y = examples()
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller():
    keras.utils.set_random_seed(0)
    teacher = convolutional(6, name="teacher")
    student = convolutional(4, normalised=True, dropout=0.2)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 16))
    made = Distiller(student=student, teacher=teacher, methods=[KD(), FitNet(weight=0.1)])
    return compiled(made, optimizer=optimizer)


def test_a_run_that_stops_goes_on(tmp_path):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    whole = distiller()
    whole.fit(X, Y, epochs=4, **options)
    first = distiller()
    first.fit(X, Y, epochs=2, callbacks=[Checkpoint(tmp_path)], **options)
    second, checkpoint = distiller(), Checkpoint(tmp_path)
    start = checkpoint.restore(second)
    assert start == 2
    second.fit(X, Y, epochs=4, initial_epoch=start, callbacks=[checkpoint], **options)
    assert same(values(whole.variables), values(second.variables), atol=1e-6)
    assert same(values(whole.optimizer.variables), values(second.optimizer.variables), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_00004.npz"]


def test_a_checkpoint_that_does_not_fit(tmp_path):
    distiller().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    other = compiled(Distiller(student=convolutional(5)))
    with pytest.raises(ValueError, match="of another model"):
        Checkpoint(tmp_path).restore(other)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="whole checkpoint"):
        Checkpoint(tmp_path).restore(distiller())


def test_nothing_to_go_on_from(tmp_path):
    assert Checkpoint(tmp_path / "none").restore(distiller()) == 0


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    save_beside(path, lambda name: open(name, "w").write("old") and None)

    def fails(name):
        open(name, "w").write("new and hal")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_beside(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def _save_with_little_room(path, outcome):
    """In a process of its own that may write no file above 20 kB: the kernel refuses the rest, as a full disk does."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = convolutional(40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        save_beside(path, model.save)
        outcome.put("saved")
    except OSError:
        outcome.put("refused")


def test_a_model_file_survives_a_full_disk(tmp_path):
    path = tmp_path / "model.keras"
    model = convolutional(2)
    save_beside(path, model.save)
    before = path.read_bytes()
    spawn = multiprocessing.get_context("spawn")
    outcome = spawn.Queue()
    process = spawn.Process(target=_save_with_little_room, args=(path, outcome))
    process.start()
    process.join(120)
    assert outcome.get(timeout=5) == "refused"
    assert path.read_bytes() == before
    np.testing.assert_array_equal(keras.saving.load_model(path)(X), model(X))
