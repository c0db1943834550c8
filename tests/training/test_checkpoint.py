"""Checkpoints: an interrupted run resumes as if it had not been, and a failed write leaves the old file unchanged."""

import multiprocessing
import resource
import shutil

import keras
import numpy as np
import pytest

from kd_keras import Distiller, data, models
from kd_keras.files import write_atomically
from kd_keras.methods import KD, FitNet, ReviewKD
from kd_keras.training import Checkpoint, fit
from kd_keras.training.checkpoint_files import checkpoints
from tests.support.networks import compiled, convolutional, examples, same, source, values

X, Y = examples()
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller(**options):
    keras.utils.set_random_seed(0)
    teacher = convolutional(6, name="teacher")
    student = convolutional(4, normalized=True, dropout=0.2)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 16), **options)
    made = Distiller(student=student, teacher=teacher, methods=[KD(), FitNet(weight=0.1)])
    return compiled(made, optimizer=optimizer, jit_compile=False)


SOURCE, STEPS, EPOCHS = source(), 3, 3


class Interrupt(keras.callbacks.Callback):
    """Raises after so many steps of an epoch, as a kill between two steps would."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def run(place, *others, **options):
    """Trains from the newest checkpoint, as a program does; returns the Distiller and the logs of the epochs."""
    made, checkpoint, history = distiller(**options), Checkpoint(place, every_steps=1), []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: history.append((epoch, dict(logs))))
    views = {"augmentation": data.Augmentation(shift=1), "batch_size": 16}
    checkpoint.restore(made)
    fit(
        made,
        checkpoint,
        lambda at: data.training(SOURCE, start_epoch=at.epoch, start_step=at.step, **views),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        callbacks=lambda at: [log, *others],
        validation_data=data.evaluation(SOURCE, batch_size=16),
        verbose=0,
    )
    return made, history


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its directory, variables and logs."""
    place = tmp_path_factory.mktemp("whole")
    made, history = run(place)
    return place, values(made.variables), values(made.optimizer.variables), history


@pytest.mark.parametrize("at", [(0, 0), (1, 1)])
def test_an_interrupted_run_resumes_within_its_epoch(tmp_path, at, whole):
    _, variables, optimizer, history = whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Interrupt(*at))
    again, rest = run(tmp_path / "stopped")
    assert same(variables, values(again.variables), atol=1e-6)
    assert same(optimizer, values(again.optimizer.variables), atol=1e-6)
    assert [epoch for epoch, _ in rest] == list(range(at[0], EPOCHS))
    for (_, logs), (_, expected) in zip(rest, history[at[0] :], strict=True):
        assert logs == pytest.approx(expected, rel=1e-5)


def test_averaged_weights_resume_within_an_epoch(tmp_path):
    """An optimizer that keeps a moving average of the weights, and puts it in their place at the end."""
    averaging = {"use_ema": True, "ema_momentum": 0.5}
    expected, _ = run(tmp_path / "whole", **averaging)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Interrupt(1, 1), **averaging)
    for _ in range(2):  # the second has nothing left to do, and ends with the averages too
        made, _ = run(tmp_path / "stopped", **averaging)
        for ours, theirs in ((made, expected), (made.optimizer, expected.optimizer)):
            assert same(values(ours.variables), values(theirs.variables), atol=1e-6)


def test_two_checkpoints_are_kept_and_the_best(whole):
    place, _, _, history = whole
    found = checkpoints(place)
    best = max(history, key=lambda each: each[1]["val_accuracy"])[0] + 1
    assert [path.name[:14] for path in found][-2:] == ["00002_00000002", "00003_00000000"]
    assert len(found) <= 3 and [path.name[:5] for path in found if "best" in path.name] == [f"{best:05d}"]
    other = distiller()
    assert Checkpoint(place).restore(other, best=True) == (best, 0)
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoint(place, keep=1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The bytes of a checkpoint of a student of a published size, trained without a teacher."""
    return saved(tmp_path_factory.mktemp("alone"))[0]


def saved(place, *methods):
    """The bytes of a checkpoint of resnet8x4 with Adam, and those of the variables that it is to hold."""
    student, teacher = models.build("resnet8x4", (32, 32, 3), 100), models.build("wrn_40_2", (32, 32, 3), 100)
    made = Distiller(student=student, teacher=teacher if methods else None, methods=list(methods))
    compiled(made, optimizer=keras.optimizers.Adam(), jit_compile=False)
    made.optimizer.build(made.trainable_variables)
    checkpoint = Checkpoint(place)
    checkpoint.set_model(made)
    checkpoint.save()
    held = sum(v.shape.num_elements() for v in [*made.variables, *made.optimizer.variables])
    return checkpoints(place)[-1].stat().st_size, 4 * held


def test_a_checkpoint_is_at_most_a_fifth_larger_than_that_of_the_baseline(tmp_path, alone):
    plain, _ = saved(tmp_path / "kd", KD())
    assert plain <= 1.01 * alone
    fitnet, held = saved(tmp_path / "fitnet", KD(), FitNet())
    assert fitnet <= 1.2 * alone and fitnet - plain >= 3 * 4 * 128 * 64  # an adapter of 1x1 and Adam's two of it
    assert held <= fitnet <= held + 60_000


def test_a_checkpoint_holds_no_more_than_its_variables(tmp_path, alone):
    """Adapters that are larger than the student are saved too, for a run could not resume without them."""
    review, held = saved(tmp_path, KD(), ReviewKD())
    assert review > 1.2 * alone and held <= review <= held + 60_000


@pytest.mark.parametrize("harm", ["torn", "changed", "empty"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(tmp_path, harm, whole):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    count, newest = len(checkpoints(tmp_path)), checkpoints(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"torn": content[:100], "changed": content, "empty": b""}[harm])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        assert Checkpoint(tmp_path).restore(distiller()) == (2, 2)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=f"All {count} checkpoints.*damaged"):
        Checkpoint(tmp_path).restore(distiller())


def test_a_checkpoint_that_does_not_fit(tmp_path):
    distiller().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    other = compiled(Distiller(student=convolutional(5)))
    with pytest.raises(ValueError, match="of another model"):
        Checkpoint(tmp_path).restore(other)
    odd = compiled(Distiller(student=convolutional()), steps_per_execution=2)
    with pytest.raises(ValueError, match="divides"):
        fit(odd, Checkpoint(tmp_path), lambda at: None, epochs=1, steps_per_epoch=3)


def test_a_built_optimizer_is_not_built_again(tmp_path):
    """A loss-scaling optimizer would double its variables."""
    keras.config.set_dtype_policy("mixed_float16")
    made = compiled(Distiller(student=convolutional()))
    made.fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    assert Checkpoint(tmp_path).restore(made) == (1, 0)


def test_nothing_to_resume_from(tmp_path):
    assert Checkpoint(tmp_path / "none").restore(distiller()) == (0, 0)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, lambda name: open(name, "w").write("old") and None)

    def fails(name):
        open(name, "w").write("new and hal")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def _save_with_little_room(path, outcome):
    """In a process of its own that may write no file above 20 kB: the kernel refuses the rest, as a full disk does."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = convolutional(40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        write_atomically(path, model.save)
        outcome.put("saved")
    except OSError:
        outcome.put("refused")


def test_a_model_file_survives_a_full_disk(tmp_path):
    path = tmp_path / "model.keras"
    model = convolutional(2)
    write_atomically(path, model.save)
    before = path.read_bytes()
    spawn = multiprocessing.get_context("spawn")
    outcome = spawn.Queue()
    process = spawn.Process(target=_save_with_little_room, args=(path, outcome))
    process.start()
    process.join(120)
    assert outcome.get(timeout=5) == "refused"
    assert path.read_bytes() == before
    np.testing.assert_array_equal(keras.saving.load_model(path)(X), model(X))
