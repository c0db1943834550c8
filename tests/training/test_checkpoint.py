"""Checkpoints: a resumed run has the results of an uninterrupted one, and a failed write keeps the old file."""

import multiprocessing
import resource
import shutil
import warnings

import keras
import numpy as np
import pytest

from kd_keras import Distiller, data, models
from kd_keras.files import write_atomically
from kd_keras.methods import KD, FitNet, ReviewKD
from kd_keras.training import Checkpoint, Position, fit
from kd_keras.training.checkpoint_files import State, checkpoints, read, write
from tests.support.networks import compiled, convolutional, examples, same, source, values

X, Y = examples()
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right")


def distiller(**options):
    keras.utils.set_random_seed(0)
    teacher = convolutional(6, name="teacher")
    student = convolutional(4, normalized=True, dropout=0.2)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 16), **options)
    model = Distiller(student=student, teacher=teacher, methods=[KD(), FitNet(weight=0.1)])
    return compiled(model, optimizer=optimizer, jit_compile=False)


SOURCE, STEPS, EPOCHS = source(), 3, 3


class Interrupt(keras.callbacks.Callback):
    """Raises after a step of an epoch, as a kill between two steps would."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def run(directory, *callbacks, **options):
    """Trains from the newest checkpoint, as a program does; returns the Distiller and the logs of the epochs."""
    model, checkpoint, history = distiller(**options), Checkpoint(directory, every_steps=1), []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: history.append((epoch, dict(logs))))
    views = {"augmentation": data.Augmentation(shift=1), "batch_size": 16}
    checkpoint.restore(model)
    fit(
        model,
        checkpoint,
        lambda at: data.training(SOURCE, start_epoch=at.epoch, start_step=at.step, **views),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        callbacks=lambda at: [log, *callbacks],
        validation_data=data.evaluation(SOURCE, batch_size=16),
        verbose=0,
    )
    return model, history


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its directory, variables and logs."""
    directory = tmp_path_factory.mktemp("whole")
    model, history = run(directory)
    return directory, values(model.variables), values(model.optimizer.variables), history


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
    """An optimizer that averages the weights during training, and replaces them by the averages at the end."""
    averaging = {"use_ema": True, "ema_momentum": 0.5}
    expected, _ = run(tmp_path / "whole", **averaging)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Interrupt(1, 1), **averaging)
    for _ in range(2):  # the second call has nothing left to train, and ends with the averages too
        model, _ = run(tmp_path / "stopped", **averaging)
        for resumed, whole in ((model, expected), (model.optimizer, expected.optimizer)):
            assert same(values(resumed.variables), values(whole.variables), atol=1e-6)


def test_two_checkpoints_are_kept_and_the_best(whole):
    directory, _, _, history = whole
    paths = checkpoints(directory)
    best = max(history, key=lambda epoch: epoch[1]["val_accuracy"])[0] + 1
    assert [path.name[:14] for path in paths][-2:] == ["00002_00000002", "00003_00000000"]
    assert len(paths) <= 3 and [path.name[:5] for path in paths if "best" in path.name] == [f"{best:05d}"]
    model = distiller()
    assert Checkpoint(directory).restore(model, best=True) == (best, 0)
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoint(directory, keep=1)


@pytest.fixture(scope="module")
def baseline_bytes(tmp_path_factory):
    """The bytes of a checkpoint of a student of a published size, without a teacher."""
    return saved(tmp_path_factory.mktemp("baseline"))[0]


def saved(directory, *methods):
    """The bytes of a checkpoint of resnet8x4 with Adam, and the bytes of the variables in it."""
    student, teacher = models.build("resnet8x4", (32, 32, 3), 100), models.build("wrn_40_2", (32, 32, 3), 100)
    model = Distiller(student=student, teacher=teacher if methods else None, methods=list(methods))
    compiled(model, optimizer=keras.optimizers.Adam(), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    checkpoint = Checkpoint(directory)
    checkpoint.set_model(model)
    checkpoint.save()
    variable_bytes = 4 * sum(v.shape.num_elements() for v in [*model.variables, *model.optimizer.variables])
    return checkpoints(directory)[-1].stat().st_size, variable_bytes


def test_a_checkpoint_is_at_most_a_fifth_larger_than_that_of_the_baseline(tmp_path, baseline_bytes):
    plain, _ = saved(tmp_path / "kd", KD())
    assert plain <= 1.01 * baseline_bytes
    fitnet, variable_bytes = saved(tmp_path / "fitnet", KD(), FitNet())
    adapter_bytes = 3 * 4 * 128 * 64  # a 1x1 kernel and Adam's two moments of it
    assert fitnet <= 1.2 * baseline_bytes and fitnet - plain >= adapter_bytes
    assert variable_bytes <= fitnet <= variable_bytes + 60_000


def test_a_checkpoint_contains_no_more_than_its_variables(tmp_path, baseline_bytes):
    """Adapters that are larger than the student are saved too, because a run could not resume without them."""
    review, variable_bytes = saved(tmp_path, KD(), ReviewKD())
    assert review > 1.2 * baseline_bytes and variable_bytes <= review <= variable_bytes + 60_000


@pytest.mark.parametrize("damage", ["torn", "changed", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, damage, whole):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    count, newest = len(checkpoints(tmp_path)), checkpoints(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"torn": content[:100], "changed": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        assert Checkpoint(tmp_path).restore(distiller()) == (2, 2)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=f"All {count} checkpoints.*damaged"):
        Checkpoint(tmp_path).restore(distiller())


@pytest.mark.parametrize("at", [Position(1, 5), Position(3)])
def test_a_run_saves_its_progress_after_its_newest_checkpoints_were_damaged(tmp_path, at):
    for epoch in (1, 2, 3, 4):
        write(tmp_path, State(Position(epoch), [np.ones(epoch)], {}), best=epoch == 1)
    for path in checkpoints(tmp_path)[1:]:
        path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        assert read(tmp_path).position == (1, 0)
    write(tmp_path, State(at, [np.zeros(1)], {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path).position == at and read(tmp_path, best=True).position == (1, 0)


def test_undamaged_checkpoints_of_later_positions_are_kept(tmp_path):
    """A callback that was not restored trains from the beginning, in the directory of a longer training."""
    for epoch in (3, 4, 1):
        write(tmp_path, State(Position(epoch), [np.ones(epoch)], {}))
    assert [path.name[:5] for path in checkpoints(tmp_path)] == ["00003", "00004"]


def test_the_checkpoints_of_another_training_are_not_continued(tmp_path):
    momentum = compiled(Distiller(student=convolutional()), optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    momentum.fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    before = [path.read_bytes() for path in checkpoints(tmp_path)]
    with pytest.raises(ValueError, match="without checkpoints of another training.*restore"):
        distiller().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    assert [path.read_bytes() for path in checkpoints(tmp_path)] == before
    other = compiled(Distiller(student=convolutional()), optimizer=keras.optimizers.Lion())
    with pytest.raises(ValueError, match=r"of the optimizer Lion, but that in .* is of SGD"):
        Checkpoint(tmp_path).restore(other)
    with pytest.raises(ValueError, match=r"Call compile\(\) first"):
        Checkpoint(tmp_path).restore(Distiller(student=convolutional()))


def test_a_checkpoint_of_another_model_is_rejected(tmp_path):
    distiller().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    wider = compiled(Distiller(student=convolutional(5)))
    with pytest.raises(ValueError, match="of another model"):
        Checkpoint(tmp_path).restore(wider)
    odd = compiled(Distiller(student=convolutional()), steps_per_execution=2)
    with pytest.raises(ValueError, match="divides"):
        fit(odd, Checkpoint(tmp_path), lambda at: None, epochs=1, steps_per_epoch=3)


def test_a_built_optimizer_is_not_built_again(tmp_path):
    """A loss-scaling optimizer would double its variables."""
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(Distiller(student=convolutional()))
    model.fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    assert Checkpoint(tmp_path).restore(model) == (1, 0)


def test_without_a_checkpoint_a_run_begins_at_the_start(tmp_path):
    assert Checkpoint(tmp_path / "none").restore(distiller()) == (0, 0)


def _save_with_little_room(path, outcome):
    """Runs in a separate process that may write at most 20 kB per file: the kernel then fails as a full disk does."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = convolutional(40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        write_atomically(path, model.save)
        outcome.put("saved")
    except OSError:
        outcome.put("rejected")


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
    assert outcome.get(timeout=5) == "rejected"
    assert path.read_bytes() == before
    np.testing.assert_array_equal(keras.saving.load_model(path)(X), model(X))
