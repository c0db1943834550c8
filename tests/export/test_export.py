"""Exports: raw images in, the student's probabilities out, with each format's own runtime; only the student in them."""

import importlib.util
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.distiller import Distiller
from kd_keras.export import runtimes
from kd_keras.export.formats import litert, onnx, saved_model
from kd_keras.export.verification import Tolerance
from kd_keras.methods import FitNet
from tests.support.networks import CLASSES, SHAPE, convolutional

RANDOM = np.random.default_rng(0)
RAW = (255 * RANDOM.uniform(size=(20, *SHAPE)) * RANDOM.uniform(size=(20, 1, 1, 3))).astype("uint8")  # of many colours
CHECK = Path(__file__).parent.parent.parent / "scripts" / "check_saved_model.py"
NAMES = ("ant", "bee", "cat", "dog", "élan")
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "tf2onnx"))
NEEDS_ONNX = pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
WRITERS = {
    "saved_model": (saved_model, "model", {}),
    "litert": (litert, "model.tflite", {}),
    "litert_float16": (litert, "model.tflite", {"precision": "float16"}),
    "litert_int8": (litert, "model.tflite", {"precision": "int8", "representative": RAW}),
    "onnx": (onnx, "model.onnx", {}),
}
FORMATS = [pytest.param(name, marks=[NEEDS_ONNX] if name == "onnx" else []) for name in WRITERS]
TOLERANCE = {"litert_float16": 1e-2, "litert_int8": 0.1}
MEAN, STD = np.array([120.0, 127.5, 135.0], "float32"), np.array([60.0, 63.75, 70.0], "float32")


def with_normalization(network):
    """A copy of a chain of layers behind the first layer that the project's networks have."""
    inputs = keras.Input(network.input_shape[1:], name="image")
    x = keras.layers.Normalization(mean=MEAN, variance=STD**2, dtype="float32", name="normalization")(inputs)
    for layer in network.layers[1:]:
        x = layer.__class__.from_config(layer.get_config())(x)
    model = keras.Model(inputs, x, name=network.name)
    model.set_weights(network.get_weights())
    return model


def expected(model, raw=RAW):
    """Its probabilities, by layers that are called one after the other on images that NumPy normalizes."""
    if model.layers[1].name != "normalization":
        return np.array(keras.ops.softmax(model(raw.astype("float32"))))
    x = (raw - MEAN) / STD
    for layer in model.layers[2:]:
        x = layer(x)
    return np.array(keras.ops.softmax(x))


def called(model, raw):
    """The probabilities of any network."""
    return np.array(keras.ops.softmax(model(raw.astype("float32"), training=False)))


def wide(seed=0):
    """A network whose predictions differ from image to image, with BatchNorm that is not the identity."""
    keras.utils.set_random_seed(seed)
    model = with_normalization(convolutional(8, normalized=True, dropout=0.2))
    for variable in model.variables:
        if variable.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
            variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    last, logits = model.get_layer("logits"), np.array(model(RAW.astype("float32")))
    scale = 2 / logits.std(0).max()
    last.kernel.assign(last.kernel * scale)
    last.bias.assign(-scale * logits.mean(0))
    return model


def write(format, model, directory, shape=SHAPE, sample=RAW, **options):
    writer, name, defaults = WRITERS[format]
    return writer(model, directory / name, image_shape=shape, sample=sample, **{**defaults, **options})


@pytest.fixture(scope="module")
def teacher():
    return convolutional(40, normalized=True, name="teacher")


@pytest.fixture(scope="module")
def distilled(teacher):
    """A student with an adapter to a big teacher."""
    student = wide()
    method = FitNet(student_tap="relu1", teacher_tap="relu1")
    distiller = Distiller(student=student, teacher=teacher, methods=[method])
    distiller.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, distilled, tmp_path_factory):
    """The distilled student in one format, with labels and names."""
    directory, labels = tmp_path_factory.mktemp(request.param), expected(distilled.student).argmax(-1)
    labels[:5] = (labels[:5] + 1) % CLASSES  # so that the source is correct for 15 of 20
    tolerance = {"tolerance": Tolerance(0.1, 0.8, 0.2)} if request.param == "litert_int8" else {}
    return write(request.param, distilled, directory, labels=labels, class_names=NAMES, **tolerance)


def test_the_runtime_returns_what_the_network_returns(exported, distilled):
    """The layers are called one by one here, not as a traced graph; the batch size does not change the outputs."""
    run, want = runtimes.load(exported.path), expected(distilled.student)
    assert len(set(want.argmax(-1))) > 2, "the images are of several classes"
    whole = run(RAW)
    assert whole.dtype == np.float32 and whole.shape == (20, CLASSES)
    within = TOLERANCE.get(exported.format, 1e-5)
    np.testing.assert_allclose(whole, want, rtol=0, atol=within)
    for size in (1, 7):
        np.testing.assert_allclose(run(RAW[:size]), whole[:size], rtol=0, atol=1e-6 if within < 0.1 else 1 / 256)
    assert exported.difference == pytest.approx(float(np.abs(whole - want).max()), abs=1e-5)
    assert exported.agreement == np.mean(whole.argmax(-1) == want.argmax(-1))
    assert exported.source_accuracy == 0.75 and 0.55 <= exported.accuracy <= 0.95
    assert exported.format in ("litert_int8", "litert_float16") or exported.accuracy == 0.75
    assert 0 < exported.milliseconds <= exported.p95


def test_an_export_contains_only_the_student(exported, distilled, teacher):
    """The adapter and the teacher have kernels of shapes that the student lacks, and more weights than are allowed."""

    def canonical(shape):
        return tuple(sorted(size for size in shape if size != 1))

    student = [tuple(variable.shape) for variable in distilled.student.variables]
    others = distilled.methods[0].variables + teacher.variables
    kernels = {canonical(variable.shape) for variable in others if len(variable.shape) > 1} - set(
        map(canonical, student)
    )
    assert len(kernels) == 4, "adapter, two convolutions and the classifier of the teacher"
    shapes = list(runtimes.weight_shapes(exported.path))
    assert not kernels & set(map(canonical, shapes))
    expected = sum(map(math.prod, student))
    if exported.format == "saved_model":
        assert sorted(shapes) == sorted(student) and exported.parameters == expected
    else:
        assert {canonical(shape) for shape in student if len(shape) > 1} <= set(map(canonical, shapes))
        assert expected / 2 < exported.parameters <= expected
    assert exported.bytes == runtimes.size_in_bytes(exported.path) > exported.parameters


def test_the_names_of_the_classes(exported, distilled):
    want = expected(distilled.student).argmax(-1)
    if exported.format == "saved_model":
        signatures = tf.saved_model.load(str(exported.path)).signatures
        answer = signatures["serving_default"](images=tf.constant(RAW))
        assert set(answer) == {"logits", "probabilities", "class"}
        assert [name.decode() for name in answer["class"].numpy()] == [NAMES[one] for one in want]
        np.testing.assert_allclose(tf.nn.softmax(answer["logits"]), answer["probabilities"], atol=1e-6)
        assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == list(NAMES)
    elif exported.format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
        assert session.get_modelmeta().custom_metadata_map["class_names"].split("\n") == list(NAMES)
        assert session.get_inputs()[0].shape == ["batch", *SHAPE]
    else:
        assert zipfile.ZipFile(exported.path).read("labels.txt").decode().split("\n") == list(NAMES)


def test_the_types_of_a_litert_file(exported):
    if not exported.format.startswith("litert"):
        pytest.skip("only for LiteRT")
    interpreter = runtimes.interpreter(exported.path)
    runner = interpreter.get_signature_runner("serving_default")
    images, answer = runner.get_input_details()["images"], runner.get_output_details()["probabilities"]
    assert images["dtype"] == np.uint8 and list(images["shape_signature"]) == [-1, *SHAPE]
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details() if tensor["shape"].size > 1}
    if exported.format == "litert_int8":
        assert images["quantization"] == (1.0, 0), "raw images go in as they are"
        assert answer["dtype"] == np.uint8 and answer["quantization"] == (1 / 256, 0)
        assert types == {np.uint8, np.int8} and np.float32 not in types
    else:
        assert answer["dtype"] == np.float32 and (np.float16 in types) == (exported.format == "litert_float16")
    interpreter = runtimes.interpreter(exported.path)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [3, *SHAPE])
    interpreter.allocate_tensors()
    assert {tuple(tensor["shape"]) for tensor in interpreter.get_output_details()} == {(3, CLASSES)}


def test_the_check_script_in_a_fresh_process(distilled, tmp_path):
    done = write("saved_model", distilled.student, tmp_path)
    classes = expected(distilled.student).argmax(-1)
    for recorded, code, text in ((classes, 0, "20 of 20 images"), ((classes + 1) % CLASSES, 1, "0 of 20 images")):
        np.savez(done.path / "check.npz", images=RAW, classes=recorded)
        ran = subprocess.run([sys.executable, CHECK, done.path], capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == code and text in ran.stdout and "kd_keras not loaded" in ran.stdout, ran.stderr


@pytest.mark.parametrize(
    "format, tolerance, message",
    [
        ("saved_model", -1, "saved_model export is rejected"),
        ("saved_model", Tolerance(agreement=1.1), "agreement at least 1.1, but received agreement=1"),
        ("litert", Tolerance(accuracy_drop=-0.5), "accuracy_drop at most -0.5, but received accuracy_drop=0"),
        pytest.param("onnx", -1, "onnx export is rejected", marks=NEEDS_ONNX),
    ],
)
def test_an_export_that_differs_is_rejected_and_the_previous_one_is_kept(format, tolerance, message, tmp_path):
    path = tmp_path / WRITERS[format][1]
    (path if format == "saved_model" else tmp_path).mkdir(exist_ok=True)
    old = path / "saved_model.pb" if format == "saved_model" else path
    old.write_text("the previous export")
    with pytest.raises(ValueError, match=message):
        write(format, convolutional(), tmp_path, labels=np.zeros(20, int), tolerance=tolerance)
    assert old.read_text() == "the previous export" and [entry.name for entry in tmp_path.iterdir()] == [path.name]


class HiddenNetwork(keras.layers.Layer):
    """Contains a second network as constants."""

    def __init__(self):
        super().__init__()
        self.hidden = tuple(np.array(variable) for variable in convolutional(40, classes=3).variables)

    def call(self, images):
        return images + 0.0 * sum(tf.reduce_sum(tf.constant(weight)) for weight in self.hidden)


def test_an_export_with_more_than_the_student_is_rejected(tmp_path):
    student = keras.Sequential([keras.Input(SHAPE), HiddenNetwork(), convolutional()], name="net")
    message = r"saved_model of 'net' must contain exactly 453 parameters(.|\n)*\(3, 3, 40, 80\)"
    with pytest.raises(ValueError, match=message):
        saved_model(student, tmp_path / "out", image_shape=SHAPE, sample=RAW)
    assert not list(tmp_path.iterdir())


def test_a_non_finite_network_is_rejected(tmp_path):
    model = convolutional()
    model.get_layer("logits").bias.assign(np.full(CLASSES, np.nan))
    with pytest.raises(ValueError, match="difference=nan"):
        write("saved_model", model, tmp_path)


@pytest.mark.parametrize(
    "format, options, message",
    [
        ("saved_model", {"sample": RAW / 255.0}, "sample= must be uint8 images"),
        ("saved_model", {"sample": RAW[:, :4]}, "(N, 8, 8, 3)"),
        ("saved_model", {"labels": np.zeros(3, int)}, "labels= must have the shape (20,)"),
        ("saved_model", {"class_names": ["one"]}, "5 class names"),
        ("litert", {"class_names": ["a\nb", "c", "d", "e", "f"]}, "class names of one line"),
        ("onnx", {"class_names": ["a\nb", "c", "d", "e", "f"]}, "class names of one line"),
        ("litert", {"precision": "int4"}, "not a precision of LiteRT"),
        ("litert_int8", {"representative": None}, "needs representative= images"),
        ("litert_int8", {"representative": RAW / 255.0}, "representative= must be uint8 images of shape (N, 8, 8, 3)"),
    ],
)
def test_invalid_arguments_are_rejected(format, options, message, tmp_path):
    with pytest.raises(ValueError) as raised:
        write(format, convolutional(), tmp_path, **options)
    assert message in str(raised.value) and not list(tmp_path.iterdir())


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains other files"):
        saved_model(convolutional(), tmp_path, image_shape=SHAPE, sample=RAW)
    with pytest.raises(ValueError, match="must end in .tflite"):
        litert(convolutional(), tmp_path / "model", image_shape=SHAPE, sample=RAW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    folder = tmp_path / "results.tflite"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="results.tflite' is a directory"):
        litert(convolutional(), folder, image_shape=SHAPE, sample=RAW)
    with pytest.raises(ValueError, match="notes.txt is a file"):
        saved_model(convolutional(), tmp_path / "notes.txt", image_shape=SHAPE, sample=RAW)
    served = tmp_path / "served"
    for _ in range(2):  # an earlier export is replaced
        saved_model(convolutional(), served, image_shape=SHAPE, sample=RAW)
    (served / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains other files, such as mine.txt"):
        saved_model(convolutional(), served, image_shape=SHAPE, sample=RAW)
    assert (folder / "thesis.txt").exists() and (served / "mine.txt").exists()


@pytest.mark.parametrize("labels", [np.full(len(RAW), 77), np.full(len(RAW), 0.5), np.full(len(RAW), -1)])
def test_labels_of_other_classes_are_refused(labels, tmp_path):
    with pytest.raises(ValueError, match=r"labels= must be classes of .*, whole numbers from 0 to"):
        saved_model(convolutional(), tmp_path / "out", image_shape=SHAPE, sample=RAW, labels=labels)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match=r"the package tf2onnx(.|\n)*kd_keras\[onnx\]"):
        write("onnx", convolutional(), tmp_path)


@pytest.fixture(scope="module")
def early():
    """A network that stops at its first exit on half of the images."""
    keras.utils.set_random_seed(0)
    summed = models.multi_exit(with_normalization(convolutional(8, normalized=True)))
    first = expected(models.single_exit(summed, 1)).max(-1)
    return models.EarlyExit(summed, float(np.median(first)))


@NEEDS_ONNX
def test_a_network_that_onnx_does_not_support(early, tmp_path):
    with pytest.raises(ValueError, match="runtime of onnx cannot run the export of 'early_exit'(.|\n)*Log1p"):
        write("onnx", early, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["litert", "litert_int8"])
def test_control_flow_in_litert(format, early, tmp_path):
    within = 0.2 if format == "litert_int8" else 1e-5  # in int8, an image near the threshold may take another exit
    done = write(format, early, tmp_path, tolerance=within)
    run, want = runtimes.load(done.path), expected(early)
    assert done.agreement >= 0.9
    for image, row in zip(RAW, want, strict=True):
        np.testing.assert_allclose(run(image[None])[0], row, rtol=0, atol=within)


SMALL = {"mlp": {"hidden": (8,)}, "shufflenet_v2": {"width": 0.5}, "mobilenet_v2": {"width": 0.35}}
SMALL |= {"mobilenet_v3_small": {"width": 0.35}, "multi_exit/resnet8": {}, "vgg8": {}}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SMALL)
def test_architectures(name, format, tmp_path):
    keras.utils.set_random_seed(0)
    shape = (16, 16, 3)
    raw = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype("uint8")
    model = models.build(name, shape, CLASSES, **SMALL[name])
    options = {"representative": raw, "tolerance": Tolerance(0.1)} if format == "litert_int8" else {}
    write(format, model, tmp_path, shape, raw, **options)
    probabilities = runtimes.load(tmp_path / WRITERS[format][1])(raw)
    np.testing.assert_allclose(probabilities, called(model, raw), rtol=0, atol=TOLERANCE.get(format, 1e-5))


@pytest.mark.parametrize("format", [format for format in FORMATS if "int8" not in str(format.values)])
@pytest.mark.parametrize("name", ["vit_lite", "deit_tiny"])
def test_transformers(name, format, tmp_path):
    """With an exact GELU, whose complement of the error function ONNX does not have, and with positions of tokens."""
    keras.utils.set_random_seed(0)
    shape = (16, 16, 3)
    raw = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype("uint8")
    model = models.build(name, shape, CLASSES, depth=1)
    write(format, model, tmp_path, shape, raw)
    probabilities = runtimes.load(tmp_path / WRITERS[format][1])(raw)
    np.testing.assert_allclose(probabilities, called(model, raw), rtol=0, atol=TOLERANCE.get(format, 1e-5))
