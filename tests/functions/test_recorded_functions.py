"""Functions as teachers: recorded, they are the teacher that the network would be; what does not fit is refused."""

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras import Distiller, Teacher, data
from kd_keras.data import Augmentation
from kd_keras.export.runtimes import load_outputs
from kd_keras.recording.writer import record
from tests.support.networks import CLASSES, SHAPE, convolutional, source
from tests.support.serving import Serving, metadata

COUNT = 37
CROP = Augmentation(crop=2, flip=True)
OPTIONS = {"batch_size": 8, "seed": 5, "views": 2}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    return convolutional(6, pixels=True, name="teacher")


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The network exported in each format, with its classes in another order than those of the data."""
    place = tmp_path_factory.mktemp("exports")
    random = np.random.default_rng(0)
    sample = random.integers(0, 256, (50, *SHAPE)).astype("uint8")
    options = {"image_shape": SHAPE, "sample": sample, "class_names": list("edcba")}
    from kd_keras.export import litert, onnx, saved_model
    from kd_keras.export.verification import Tolerance

    loose = Tolerance(difference=0.2, agreement=0.5)
    return {
        "saved_model": saved_model(network, place / "saved_model", **options).path,
        "litert": litert(network, place / "model.tflite", **options).path,
        "int8": litert(
            network, place / "int8.tflite", **options, precision="int8", representative=sample, tolerance=loose
        ).path,
        "onnx": onnx(network, place / "model.onnx", **options).path,
    }


def table(recording, view=0):
    return recording.read(view, np.arange(COUNT))[0]


@pytest.fixture(scope="module")
def expected(network, tmp_path_factory):
    """What a recording of the network itself has, in two views."""
    recording = record(tmp_path_factory.mktemp("expected"), Teacher(network), source(), **OPTIONS, augmentation=CROP)
    return [table(recording, view) for view in range(2)]


@pytest.mark.parametrize("kind", ["litert", "onnx"])
def test_a_file_records_what_its_network_records(kind, files, expected, tmp_path):
    make = Teacher.onnx if kind == "onnx" else Teacher.litert
    teacher = make(files[kind])
    assert teacher.origin.class_names == list("edcba")
    recording = record(tmp_path, teacher, source(), **OPTIONS, augmentation=CROP)
    recording.verify()
    for view in range(2):
        np.testing.assert_allclose(table(recording, view), expected[view], atol=1e-4)


def test_an_int8_file_records_what_its_runtime_returns(files, tmp_path):
    pixels = np.stack([example["image"].numpy() for example in source().examples])
    recording = record(tmp_path, Teacher.litert(files["int8"]), source(), batch_size=8)
    returned = load_outputs(files["int8"], ["logits"])(pixels)["logits"]
    np.testing.assert_array_equal(table(recording), returned)


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_an_onnx_file_with_the_layout_of_pytorch(batch, tmp_path):
    """Images (B, C, H, W) float32 in 0..1, for any batch size or one that is fixed; the mean of each channel by K."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, np.random.default_rng(0).normal(size=(3, CLASSES)).astype("float32")
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "torch",
        [helper.make_tensor_value_info("pixels", kind, [batch, 3, *SHAPE[:2]])],
        [helper.make_tensor_value_info("scores", kind, [batch, CLASSES])],
        [onnx.numpy_helper.from_array(numbers, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "torch.onnx")
    mean = np.array([0.5, 0.4, 0.3])
    teacher = Teacher.onnx(tmp_path / "torch.onnx", preprocess=lambda images: (images / 255 - mean) / 0.2)
    recording = record(tmp_path / "recording", teacher, source(), batch_size=8)
    pixels = np.stack([example["image"].numpy() for example in source().examples])
    expected = ((pixels / 255 - mean) / 0.2).mean((1, 2)) @ numbers
    np.testing.assert_allclose(table(recording), expected, atol=1e-4)


def test_a_file_that_reads_other_channels_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"shape \(None, 8, 8, 3\), which the ONNX file .* \(None, 8, 8, 1\)"):
        Teacher.onnx(files["onnx"]).probed(np.zeros((2, 8, 8, 1), "float32"), np.arange(2), None)


def test_a_saved_model_records_and_teaches_directly(files, network, expected, tmp_path):
    teacher = Teacher.saved_model(files["saved_model"])
    recording = record(tmp_path, teacher, source(), **OPTIONS, augmentation=CROP)
    np.testing.assert_allclose(table(recording), expected[0], atol=1e-4)
    other = Teacher.saved_model(files["saved_model"], output="probabilities", probabilities=True)
    with pytest.raises(ValueError, match="weights: recorded"):
        Teacher.recorded(tmp_path, live=other)
    images = np.random.default_rng(1).integers(0, 256, (3, *SHAPE)).astype("float32")
    logits = other.tapped(["logits"])(images)["logits"]
    np.testing.assert_allclose(tf.nn.softmax(logits), tf.nn.softmax(network(images)), atol=1e-5)
    distiller = Distiller(student=convolutional(4), teacher=teacher, methods=[kd.methods.KD()], hard_weight=0)
    distiller.compile(optimizer="sgd")
    assert np.isfinite(distiller.fit(images, verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match="the name of an output of the SavedModel 'saved_model', which has"):
        Teacher.saved_model(files["saved_model"], output="scores")
    with pytest.raises(ValueError, match="has no saved_model.pb"):
        Teacher.saved_model(tmp_path)


def test_a_function_is_asked_once_for_each_view_and_its_recording_trains_a_student(network, expected, tmp_path):
    asked = []

    def ask(images):
        asked.append(len(images))
        return network(images)

    teacher = Teacher(ask)
    recording = record(tmp_path, teacher, source(), **OPTIONS, augmentation=CROP)
    assert sum(asked) == 2 * COUNT and asked == 2 * [8, 8, 8, 8, 5]
    np.testing.assert_allclose(table(recording, 1), expected[1], atol=1e-5)
    assert not list(tmp_path.glob("batches-*"))
    record(tmp_path, teacher, source(), **OPTIONS, augmentation=CROP)
    assert sum(asked) == 2 * COUNT
    batches = data.training(source(), batch_size=8, seed=5, augmentation=CROP, recorded=recording, epochs=1)
    student = Distiller(student=convolutional(4), teacher=Teacher.recorded(tmp_path), methods=[kd.methods.KD()])
    student.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(student.fit(batches, steps_per_epoch=5, verbose=0).history["kd"][0])


def test_an_interrupted_function_is_not_asked_again_for_batches_of_an_incomplete_shard(tmp_path):
    asked = []

    def ask(images):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.extend(image.tobytes() for image in images)
        return images[:, 0, :5, 0]

    options = {"batch_size": 1, "seed": 5, "views": 1, "augmentation": CROP}  # 37 batches in 16 shards
    stop = 12
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "interrupted", Teacher(ask), source(), **options)
    assert list((tmp_path / "interrupted").glob("batches-*/*.npz"))
    stop = -1
    recording = record(tmp_path / "interrupted", Teacher(ask), source(), **options)
    assert len(asked) == COUNT
    whole = record(tmp_path / "whole", Teacher(lambda images: images[:, 0, :5, 0]), source(), **options)
    np.testing.assert_array_equal(table(recording), table(whole))


def test_probabilities_become_logits_with_the_same_softmax(network, tmp_path):
    teacher = Teacher(lambda images: tf.nn.softmax(network(images)), probabilities=True)
    recording = record(tmp_path, teacher, source(), batch_size=8)
    logits = table(record(tmp_path / "live", Teacher(network), source(), batch_size=8))
    np.testing.assert_allclose(tf.nn.softmax(table(recording)), tf.nn.softmax(logits), atol=1e-5)
    assert recording.specs["logits"].activation == "softmax"


def test_an_embedding_is_recorded_for_methods_that_read_it(network, tmp_path):
    function = Teacher(lambda images: images.reshape(len(images), -1)[:, :7], tap="embedding")
    recording = record(tmp_path, function, source(), taps=["embedding"], batch_size=8)
    assert recording.specs.shapes == {"embedding": (7,)} and recording.read(0, np.arange(3))[0].shape == (3, 7)
    with pytest.raises(ValueError, match="a teacher with the taps logits, but received the function .* only 'emb"):
        record(tmp_path, function, source(), batch_size=8)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: np.zeros((len(images), 4)), r"Expected 5 classes, those of the images, .* received 4 classes"),
        (lambda images: np.zeros((3, 5)), r"Expected outputs of shape \(8, ..., K\) from .* of shape \(3, 5\)"),
        (lambda images: np.full((len(images), 5), np.nan), "Expected finite outputs from .* but received NaN"),
        (lambda images: np.full((len(images), 5), -np.inf), "Expected finite outputs from .* but received infinity"),
        (lambda images: np.full((len(images), 5), 0.2), "Expected logits from .* Pass probabilities=True"),
        (lambda images: {"scores": 1}, r"but received \{'scores': 1\} \(dict\)"),
        (lambda images: [[1.0, 2.0], [1.0]] * 4, r"\(list\)"),
    ],
)
def test_outputs_that_are_not_what_is_needed_are_refused_before_anything_is_written(function, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "recording", Teacher(function), source(), batch_size=8)
    assert not (tmp_path / "recording").exists()


def test_logits_that_are_called_probabilities_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="Expected probabilities that sum to 1 from .* Leave out probabilities=True"):
        record(tmp_path, Teacher(network.predict_on_batch, probabilities=True), source(), batch_size=8)


def test_a_recording_of_another_function_is_not_resumed(tmp_path):
    record(tmp_path, Teacher(lambda images: images[:, 0, :5, 0], name="one"), source(), batch_size=8)
    with pytest.raises(ValueError, match="teacher function: recorded one, now two"):
        record(tmp_path, Teacher(lambda images: images[:, 0, :5, 0], name="two"), source(), batch_size=8)


def test_a_student_is_not_trained_from_a_function_directly(files):
    for teacher in (Teacher.onnx(files["onnx"]), Teacher(lambda images: images)):
        with pytest.raises(ValueError, match=r"directly from .*, which is no TensorFlow graph. Record it first with"):
            Distiller(student=convolutional(4), teacher=teacher, methods=[kd.methods.KD()])
    for teacher in (files["onnx"], "http://localhost:1/v1/models/teacher", lambda images: images):
        with pytest.raises(ValueError, match="Record it first with kd_keras.record"):
            kd.distill(teacher=teacher, student="mlp", run="nowhere")


def arrays(path, **columns):
    np.savez(path, **columns)
    return Teacher.arrays(path)


def test_arrays_are_found_by_the_number_of_the_example(tmp_path):
    random = np.random.default_rng(0)
    logits, order = random.normal(size=(COUNT, CLASSES)).astype("float32"), random.permutation(COUNT)
    recording = record(
        tmp_path / "by_index", arrays(tmp_path / "a.npz", logits=logits[order], index=order), source(), batch_size=8
    )
    np.testing.assert_array_equal(table(recording), logits)
    recording = record(tmp_path / "in_order", arrays(tmp_path / "b.npz", logits=logits), source(), batch_size=8)
    np.testing.assert_array_equal(table(recording), logits)
    more, index = np.concatenate([logits[order], logits]), [*order, *range(COUNT, 2 * COUNT)]  # of several splits
    recording = record(tmp_path / "more", arrays(tmp_path / "c.npz", logits=more, index=index), source(), batch_size=8)
    np.testing.assert_array_equal(table(recording), logits)


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    logits, path = np.random.default_rng(0).normal(size=(COUNT, CLASSES)), tmp_path / "a.npz"
    with pytest.raises(ValueError, match="no predictions for views of them, but received the augmentation"):
        record(tmp_path / "r", arrays(path, logits=logits), source(), batch_size=8, augmentation=CROP)
    with pytest.raises(ValueError, match=r"which lacks \d+ of a batch, such as"):
        record(tmp_path / "r", arrays(path, logits=logits[:8], index=np.arange(8)), source(), batch_size=37)
    for rows in (logits[:8], np.concatenate([logits, logits])):
        message = f"{COUNT} rows in .*'a.npz', .* received {len(rows)} rows without their numbers. Add an array .index"
        with pytest.raises(ValueError, match=message):
            record(tmp_path / "r", arrays(path, logits=rows), source(), batch_size=8)
    assert not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match=r"each example once in 'index' .* \[1\] several times"):
        arrays(path, logits=logits[:3], index=[0, 1, 1])
    with pytest.raises(ValueError, match="whole numbers in 'index' .* but received float64 values"):
        arrays(path, logits=logits[:3], index=[0, 1, 1.5])
    with pytest.raises(ValueError, match="3 entries of 'index' .* but received 2"):
        arrays(path, logits=logits[:3], index=[0, 1])
    with pytest.raises(
        ValueError, match="one array out of logits, probabilities, embedding, but received a.npz with x"
    ):
        arrays(path, x=logits)
    with pytest.raises(ValueError, match="Pass names=kd_keras.data.file_names"):
        arrays(path, logits=logits, files=[f"{n}.png" for n in range(COUNT)])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a.npz is not an .npz file that can be read"):
        Teacher.arrays(path)


def test_files_that_are_damaged_or_missing_are_refused(tmp_path):
    for make, suffix in ((Teacher.litert, ".tflite"), (Teacher.onnx, ".onnx")):
        with pytest.raises(ValueError, match="does not exist"):
            make(tmp_path / f"none{suffix}")
        (tmp_path / f"damaged{suffix}").write_bytes(b"damaged")
        with pytest.raises(ValueError, match="file that can be loaded"):
            make(tmp_path / f"damaged{suffix}")


# ---- a server


@pytest.fixture
def quick(monkeypatch):
    """No waiting between the attempts; the waits are collected."""
    waits = []
    monkeypatch.setattr("kd_keras.functions.served.sleep", waits.append)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return waits


def rows(network):
    return lambda images: network(images.astype("float32")).numpy().tolist()


def test_a_server_that_dies_while_it_is_recorded_and_is_started_again(network, expected, quick, tmp_path):
    options = {**OPTIONS, "augmentation": CROP}
    with Serving(rows(network)) as whole:
        uninterrupted = record(
            tmp_path / "whole", Teacher.served(whole.url, batch_size=3, retries=1), source(), **options
        )
        assert len(whole.images) == 2 * COUNT
    with Serving(rows(network), dies_after=9) as first:
        teacher = Teacher.served(first.url, batch_size=3, retries=2)
        with pytest.raises(ConnectionError, match="does not reply after 3 attempts, .* Start the server and run the"):
            record(tmp_path / "resumed", teacher, source(), **options)
        assert quick == [1.0, 2.0]
    with pytest.raises(ConnectionError, match="refused"):
        record(tmp_path / "resumed", teacher, source(), **options)
    with Serving(rows(network)) as second:  # on another port
        moved = Teacher.served(second.url, batch_size=3)
        resumed = record(tmp_path / "resumed", moved, source(), **options)
        repeated = set(first.images) & set(second.images)
    assert len(repeated) <= 8  # of the batch that failed
    for view in range(2):
        np.testing.assert_array_equal(table(resumed, view), table(uninterrupted, view))
        np.testing.assert_allclose(table(resumed, view), expected[view], atol=1e-4)


def test_a_server_process_that_is_killed_and_started_again_during_a_recording(files, tmp_path, monkeypatch):
    """The recording waits for it, in real time, and is the one of a server that was always there."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.serving", str(files["onnx"]), str(port)]
    teacher = Teacher.served(f"http://127.0.0.1:{port}/v1/models/teacher", batch_size=3, retries=9)  # a busy machine
    options = {**OPTIONS, "augmentation": CROP}
    answered = []
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as servers:
        for start in ("first", "second"):
            server = servers.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            servers.callback(server.kill)
            assert server.stdout.readline() == "ready\n"
            if start == "first":
                recorded = pool.submit(record, tmp_path / "killed", teacher, source(), **options)
                answered += [int(server.stdout.readline()) for _ in range(8)]
                server.send_signal(signal.SIGKILL)
                server.wait()
                assert not recorded.done(), "the recording waits for the server"
        recording = recorded.result(timeout=300)
        whole = record(tmp_path / "whole", teacher, source(), **options)
    assert 0 < sum(answered) < 2 * COUNT, "it was killed in the middle"
    for view in range(2):
        np.testing.assert_array_equal(table(recording, view), table(whole, view))


def test_a_server_is_asked_in_its_type_and_size_and_for_the_named_output(network, quick, tmp_path):
    def predict(images):
        assert images.dtype.kind == "i" and images.shape[1:] == (16, 16, 3) and images.max() <= 255
        small = images[:, ::2, ::2].astype("float32")
        return [{"logits": row, "name": "a"} for row in network(small).numpy().tolist()]

    with Serving(predict, metadata((-1, 16, 16, 3), "DT_UINT8")) as server:
        recording = record(tmp_path, Teacher.served(f"{server.url}:predict"), source(), batch_size=8)
        assert np.isfinite(table(recording)).all()
        assert server.requests == 5
        with pytest.raises(ValueError, match="which has logits, name, but received output='scores'"):
            record(tmp_path / "other", Teacher.served(server.url, output="scores"), source(), batch_size=8)


def test_a_busy_server_is_asked_again_and_one_that_rejects_is_not(network, quick, tmp_path):
    with Serving(rows(network)) as server:
        server.statuses = [503, 429]
        record(tmp_path / "busy", Teacher.served(server.url, batch_size=37), source(), batch_size=37)
        assert server.requests == 3 and quick == [1.0, 2.0]
        server.statuses = [400]
        with pytest.raises(ValueError, match="rejects a request with HTTP 400: 'status 400'"):
            record(tmp_path / "rejected", Teacher.served(server.url, batch_size=37), source(), batch_size=37)
        assert server.requests == 4


def test_a_reply_that_breaks_off_is_asked_for_again(network, quick, tmp_path):
    with Serving(rows(network), metadata((-1, *SHAPE), "DT_FLOAT")) as server:
        teacher = Teacher.served(server.url, batch_size=37)
        server.halves = 2  # the metadata, twice
        record(tmp_path, teacher, source(), batch_size=37)
        assert server.requests == 1 and quick == [1.0, 2.0]


def test_a_server_that_replies_with_another_shape_is_refused(quick, tmp_path):
    with Serving(lambda images: [[1.0, 2.0]] * len(images)) as server:
        with pytest.raises(ValueError, match="Expected 5 classes, .* of the server 'http.*received 2 classes"):
            record(tmp_path, Teacher.served(server.url), source(), batch_size=8)
    with Serving(lambda images: [[1.0] * CLASSES]) as server:
        with pytest.raises(ValueError, match="Expected 8 'predictions', one for each image, .* received 1 of them"):
            record(tmp_path, Teacher.served(server.url), source(), batch_size=8)


def test_a_server_that_does_not_reply_in_time(quick, tmp_path):
    with Serving(lambda images: time.sleep(1)) as server:
        teacher = Teacher.served(server.url, timeout=0.1, retries=1)
        with pytest.raises(ConnectionError, match="after 2 attempts, the last one with .*timed out"):
            record(tmp_path, teacher, source(), batch_size=8)


def test_addresses_that_are_none():
    for address in ("localhost:8501", "ftp://host/model", 3):
        with pytest.raises(ValueError, match="an address such as http://localhost:8501"):
            Teacher.served(address)
    with pytest.raises(ValueError, match="timeout"):
        Teacher.served("http://localhost/v1/models/a", timeout=0)


def test_the_messages_of_retries_name_the_server(network, quick, tmp_path, caplog):
    with Serving(rows(network)) as server, caplog.at_level(logging.WARNING, "kd_keras"):
        server.statuses = [500]
        record(tmp_path, Teacher.served(server.url), source(), batch_size=37)
        assert any("does not reply (HTTP 500" in entry.getMessage() for entry in caplog.records)
        assert json.loads((tmp_path / "plan.json").read_text())["teacher"]["served"] == "/v1/models/teacher"
