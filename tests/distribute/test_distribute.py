"""Strategies: the same numbers on any number of devices, real workers on this machine, names and their checks."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, data, distribute
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.data import Augmentation
from kd_keras.distribute.replicas import SEED_DISTANCE
from kd_keras.distribute.slices import BatchSlice
from kd_keras.methods import KD
from tests.support import replicas, workers
from tests.support.networks import compiled, convolutional, examples, mirrored, source, values
from tests.support.programs import program
from tests.support.replicas import CASES

ROOT = workers.ROOT
WEIGHTS = {"synchronized": 1e-4, "half": 3e-2}  # float16 itself moves the weights by 2.5e-2 from float32's
METRICS = {"synchronized": 1e-4, "half": 3e-3}
# Workers reject several steps per call: "together" would be a part of "plain" there.
COMPARED = [("mirrored", case) for case in CASES]
COMPARED += [(worker, case) for worker in ("worker0", "worker1") for case in CASES if case != "together"]
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:.shuffle")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of every case on one device, on two logical devices, and on each of two workers."""
    directory = tmp_path_factory.mktemp("replicas")
    both = workers.start(2, "-m", "tests.support.replicas", "multiworker", directory / "worker{index}.npz")
    try:
        for name in ("one", "mirrored"):
            replicas.main(name, directory / f"{name}.npz")
    finally:
        codes, outputs, errors = workers.finish(both)
    assert codes == [0, 0], errors[0][-3000:]
    assert [text.strip() for text in outputs] == ["2 replicas, chief True", "2 replicas, chief False"]
    return {path.stem: np.load(path) for path in directory.glob("*.npz")}


@pytest.mark.parametrize("name, case", COMPARED)
def test_the_same_numbers_however_many_devices(results, name, case):
    """After 21 updates, the last of each epoch on 2 and 3 examples; with augmentation, tests and predictions."""
    on_one, on_several = results["one"], results[name]
    for key in (key for key in on_one if key.startswith(f"{case}/") and not key.endswith("history")):
        np.testing.assert_allclose(on_several[key], on_one[key], rtol=0, atol=WEIGHTS.get(case, 1e-5), err_msg=key)
    histories = [json.loads(str(arrays[f"{case}/history"])) for arrays in (on_one, on_several)]
    expected, actual = (dict(history.pop("evaluated")) | history for history in histories)
    assert actual.keys() == expected.keys() and {"loss", "val_loss", "val_accuracy"} <= expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=METRICS.get(case, 1e-5), err_msg=key)


PLAIN = """
import keras, numpy as np, tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
model.fit(tf.data.Dataset.from_tensor_slices((np.ones((8, 4)), np.ones((8, 1)))).batch(4), epochs=2, verbose=0)
print("fits")
"""


def test_plain_keras_does_not_fit_on_workers_yet():
    """keras-team/keras 20585. When this fails, Keras has fixed it: delete kd_keras/distribute/keras_fit.py."""
    _, outputs, _ = workers.finish(workers.start(2, "-c", PLAIN))
    assert "fits" not in outputs[0] + outputs[1], "Keras has fixed issue 20585: delete kd_keras/distribute/keras_fit.py"


def test_slices_are_parts_of_the_whole_batch():
    images = source(37)
    options = {"batch_size": 16, "epochs": 2, "with_index": True}
    for views in (Augmentation(shift=1), Augmentation(flip=True, mixup=0.5)):
        whole = list(data.training(images, augmentation=views, **options))
        slices = [BatchSlice(0, 2, 3), BatchSlice(2, 1, 3)]
        of_two, of_one = (list(data.training(images, augmentation=views, batch_slice=s, **options)) for s in slices)
        assert len(of_two) == 2 * len(whole) and len(of_one) == len(whole)
        for number, batch in enumerate(whole):
            parts = [*of_two[2 * number : 2 * number + 2], of_one[number]]
            joined = [np.concatenate(columns) for columns in zip(*map(tf.nest.flatten, parts), strict=True)]
            for actual, expected in zip(joined, tf.nest.flatten(batch), strict=True):
                np.testing.assert_array_equal(actual, expected)


def test_evaluation_neither_loses_nor_repeats_a_row():
    images = source(37)
    slices = [
        list(data.evaluation(images, batch_size=16, with_index=True, batch_slice=BatchSlice(p, 1, 4))) for p in range(4)
    ]
    assert [len(batches) for batches in slices] == [3] * 4
    counted = [
        index
        for batches in slices
        for x, _, weights in batches
        for index, weight in zip(x[INDEX].numpy(), weights.numpy(), strict=True)
        if weight
    ]
    assert sorted(counted) == list(range(37))
    assert {len(y) for batches in slices for _, y, _ in batches} == {4}  # static: padded with rows of weight 0


@pytest.mark.parametrize("kind, counts", [("weighted_metrics", False), ("metrics", True)])
def test_metrics_that_count_the_padding_are_warned_of(kind, counts, recwarn):
    images, strategy = source(18), mirrored(2)
    with strategy.scope():
        distiller = Distiller(student=convolutional(4), hard_weight=1.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss=loss, **{kind: ["accuracy"]}, jit_compile=False)
    make = lambda batch_slice: data.evaluation(images, batch_size=16, batch_slice=batch_slice)  # noqa: E731
    distiller.evaluate(distribute.batches(strategy, make), steps=2, verbose=0)
    assert any("Pass them as weighted_metrics=" in str(warning.message) for warning in recwarn) is counts


def test_training_can_start_within_an_epoch():
    images = source(37)
    for options in ({}, {"cache": False}, {"drop_remainder": True}):
        options = {"batch_size": 16, "with_index": True, "augmentation": Augmentation(flip=True, mixup=1.0), **options}
        whole = list(data.training(images, epochs=3, **options))
        late = list(data.training(images, start_epoch=1, start_step=1, epochs=2, **options))
        steps = data.steps_per_epoch(images, 16, options.get("drop_remainder", False))
        assert len(late) == 2 * steps - 1
        for (x, _), (expected, _) in zip(late, whole[steps + 1 :], strict=True):
            np.testing.assert_array_equal(x[INPUTS], expected[INPUTS])
    with pytest.raises(ValueError, match="start_step must be below 3"):
        data.training(images, batch_size=16, start_step=3)
    with pytest.raises(ValueError, match="Each of 6 replicas needs at least one example.* has 5"):
        data.training(images, batch_size=16, batch_slice=BatchSlice(0, 1, 6))


@pytest.mark.parametrize("count", [33, 34])
def test_evaluation_and_prediction_with_a_replica_without_rows(count):
    """Keras itself divides data that is not from the pipeline: a replica receives no row of a batch of one example."""
    x, y = examples(count)
    with mirrored(2).scope():
        distiller = compiled(Distiller(student=convolutional()), jit_compile=False)
    on_one = compiled(Distiller(student=keras.models.clone_model(distiller.student)))
    on_one.student.set_weights(distiller.student.get_weights())
    rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    results, expected = (model.evaluate(rows, verbose=0, return_dict=True) for model in (distiller, on_one))
    assert results == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(distiller.predict(rows, verbose=0), on_one.predict(rows, verbose=0), atol=1e-6)


def test_training_with_a_replica_without_rows_is_an_error():
    x, y = examples(17)
    with mirrored(2).scope():
        distiller = compiled(Distiller(student=convolutional()), jit_compile=False)
    rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)an example for each of 2 replicas.*drop_remainder"):
        distiller.fit(rows, verbose=0)


def test_training_with_an_uneven_first_batch():
    x, y = examples(7)
    with mirrored(2).scope():
        distiller = compiled(Distiller(student=convolutional()), jit_compile=False)
    assert np.isfinite(distiller.fit(x, y, batch_size=7, verbose=0).history["loss"]).all()


def test_one_device_is_not_several():
    with pytest.raises(ValueError, match="one device for strategy 'one', but received devices=2. Pass strategy="):
        distribute.strategy("one", devices=2)


def test_training_with_central_storage():
    strategy = distribute.strategy("central", devices=2)
    with strategy.scope():
        distiller = compiled(Distiller(student=convolutional()), jit_compile=False)
    x, y = examples(16)
    before = values(distiller.student.trainable_variables)
    assert np.isfinite(distiller.fit(x, y, epochs=2, verbose=0).history["loss"]).all()
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(before, values(distiller.student.trainable_variables), strict=True)
    )
    assert distiller.predict(x, verbose=0).shape == (16, 5)


def test_random_numbers_differ_over_replicas():
    strategy = mirrored(2)
    with strategy.scope():
        model = convolutional(dropout=0.5)
        distribute.seed_replicas(strategy, model)
    state = model.get_layer("dropout").seed_generator.state.value
    first, second = (value.numpy() for value in strategy.experimental_local_results(state))
    assert second[0] - first[0] == SEED_DISTANCE and first[1] == second[1]


def test_strategies_by_name_and_learning_rates(monkeypatch):
    assert distribute.strategy().num_replicas_in_sync == 1 and distribute.is_chief(distribute.strategy("one"))
    for arguments, message in (
        ({"name": "miror"}, "Did you mean mirrored"),
        ({"name": "multiworker"}, "(?s)TF_CONFIG.*launch_local"),
        ({"name": "tpu"}, "a TPU"),
        ({"name": "mirrored", "devices": 0}, "at least 1"),
        ({"name": "mirrored", "devices": 64}, "64 logical CPUs.*Make the strategy before"),
    ):
        with pytest.raises(ValueError, match=message):
            distribute.strategy(**arguments)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {}}))
    assert distribute.detect_strategy() == "multiworker"
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert distribute.detect_strategy() == "multiworker"
    assert distribute.scale_learning_rate(0.1, "sqrt", 400, 100) == pytest.approx(0.2)
    assert distribute.scale_learning_rate(0.1, "none", 400, 100) == 0.1
    with pytest.raises(ValueError, match="Did you mean linear"):
        distribute.scale_learning_rate(0.1, "linaer", 4, 4)


def test_xla_is_rejected_if_it_fails():
    one, two = distribute.strategy("one"), mirrored(2)
    assert distribute.choose_xla(one, "on")[0] is True and distribute.choose_xla(two, "auto")[0] is False
    assert distribute.choose_xla(one, deterministic=True)[0] is False
    for strategy, deterministic in ((two, False), (one, True)):
        with pytest.raises(ValueError, match="XLA"):
            distribute.choose_xla(strategy, "on", deterministic)


def test_the_step_compiles_for_an_accelerator_at_static_shapes():
    """What a TPU requires and can be tested without one: the whole step is one XLA program of static shapes, in
    bfloat16, without a call of Python."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    student = convolutional(4, normalized=True)
    keras.config.set_dtype_policy("float32")
    distiller = compiled(Distiller(student=student, teacher=convolutional(6, name="teacher"), methods=[KD()]))
    batches = data.training(source(37), batch_size=16, drop_remainder=True, shuffle=False)
    x, y = next(iter(batches))
    assert batches.element_spec[0].shape == (16, 8, 8, 3)
    distiller.build_from(batches.element_spec)
    step = tf.function(lambda x, y: distiller.train_step((x, y)), jit_compile=True)
    program = step.experimental_get_compiler_ir(x, y)(stage="hlo")
    assert "bf16[16,8,8,4]" in program and "?" not in program.split("ENTRY")[1] and "<=" not in program
    graph = step.get_concrete_function(x, y).graph.as_graph_def()
    names = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not names & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
    assert np.isfinite([float(value) for value in step(x, y).values()]).all()


RUN = ["--data=digits", "--model=mlp(hidden=(16,))", "--batch_size=50", "--checkpoint_every=4", "--epochs=400"]


def wait_for_output(process, text):
    """Waits until a process prints a text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read()[-3000:])


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1], ids=["chief", "worker 1"])
def test_a_worker_that_dies_is_detected_and_the_run_resumes(tmp_path, rank):
    data.load("digits", "train", tmp_path)
    program = ["-m", "experiments.train", *RUN, f"--data_dir={tmp_path}", f"--run={tmp_path / 'run'}"]
    program.append("--worker_timeout=20")
    both = workers.start(2, *program)
    wait_for_output(both[0], "Epoch 3")
    both[rank].kill()
    killed = time.monotonic()
    survivor = both[1 - rank]
    _, error = survivor.communicate(timeout=60)
    assert survivor.returncode == distribute.LOST and time.monotonic() - killed < 30
    assert "resumes from its last checkpoint" in error
    both[rank].communicate()
    again = workers.start(2, *program)
    wait_for_output(again[0], "Resuming after epoch")
    again[rank].send_signal(signal.SIGTERM)  # one worker receives it, and all exit together after a checkpoint
    codes, *_ = workers.finish(again, timeout=60)
    assert codes == [143, 143]


@pytest.mark.slow
def test_programs_that_do_not_train_run_on_workers_too(tmp_path):
    """Only the chief prints, and its results are those of one device."""
    arguments, run = [*RUN[:3], f"--data_dir={tmp_path}"], tmp_path / "run"
    trained = program("train", *arguments, "--epochs=1", f"--run={run}").stdout.split("accuracy ")[-1][:6]
    for name, options, expected in (
        ("evaluate", [f"--data_dir={tmp_path}", f"--teacher={run}"], trained),
        ("models", ["--model=mlp"], "| mlp |"),
    ):
        codes, outputs, errors = workers.finish(workers.start(2, "-m", f"experiments.{name}", *options))
        assert codes == [0, 0], errors[0][-3000:]
        assert expected in outputs[0] and not outputs[1].strip()


def test_launch_local_ends_all_when_one_fails():
    fails = 'import os, sys, time as t; print("up"); "x\\": 1" in os.environ["TF_CONFIG"] and sys.exit(7); t.sleep(60)'
    command = ["bash", str(ROOT / "scripts" / "launch_local.sh"), "2", "--", sys.executable, "-uc", fails]
    started = time.monotonic()
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GRACE": "5"})
    assert process.returncode == 7 and time.monotonic() - started < 30
    assert "[worker 0] up" in process.stdout and "exit code 7" in process.stderr
    usage = subprocess.run(["bash", str(ROOT / "scripts" / "launch_local.sh"), "2"], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr
