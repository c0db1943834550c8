"""Exports: raw images in, the student's probabilities out, by each form's own runtime, and nothing but the student."""

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
FORMS = [pytest.param(name, marks=[NEEDS_ONNX] if name == "onnx" else []) for name in WRITERS]
WITHIN = {"litert_float16": 1e-2, "litert_int8": 0.1}


def normalise(images):
    return (images - 0.5) / 0.25


def expected(model, raw=RAW):
    return np.array(keras.ops.softmax(model(normalise(raw / np.float32(255)))))


def wide(seed=0):
    """A network whose answers differ from image to image, with BatchNorm that is not the identity."""
    keras.utils.set_random_seed(seed)
    model = convolutional(8, normalised=True, dropout=0.2)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
            variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    last, logits = model.get_layer("logits"), np.array(model(normalise(RAW / np.float32(255))))
    scale = 2 / logits.std(0).max()
    last.kernel.assign(last.kernel * scale)
    last.bias.assign(-scale * logits.mean(0))
    return model


def write(form, model, place, shape=SHAPE, sample=RAW, **options):
    writer, name, own = WRITERS[form]
    path = place / name
    return writer(model, path, image_shape=shape, normalise=normalise, sample=sample, **{**own, **options})


@pytest.fixture(scope="module")
def teacher():
    return convolutional(40, normalised=True, name="teacher")


@pytest.fixture(scope="module")
def distilled(teacher):
    """A student with an adapter to a big teacher."""
    student = wide()
    method = FitNet(student_tap="relu1", teacher_tap="relu1")
    distiller = Distiller(student=student, teacher=teacher, methods=[method])
    distiller.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


@pytest.fixture(scope="module", params=FORMS)
def exported(request, distilled, tmp_path_factory):
    """The distilled student in one form, with labels and names."""
    place, labels = tmp_path_factory.mktemp(request.param), expected(distilled.student).argmax(-1)
    labels[:5] = (labels[:5] + 1) % CLASSES  # so that the source is right on 15 of 20
    tolerance = {"tolerance": Tolerance(0.1, 0.8, 0.2)} if request.param == "litert_int8" else {}
    return write(request.param, distilled, place, labels=labels, class_names=NAMES, **tolerance)


def test_its_runtime_gives_what_the_network_gives(exported, distilled):
    """The network is called by itself here, not through what was traced; batches of any size are the same images."""
    run, want = runtimes.load(exported.path), expected(distilled.student)
    assert len(set(want.argmax(-1))) > 2, "these images are of several classes"
    whole = run(RAW)
    assert whole.dtype == np.float32 and whole.shape == (20, CLASSES)
    within = WITHIN.get(exported.form, 1e-5)
    np.testing.assert_allclose(whole, want, rtol=0, atol=within)
    for size in (1, 7):
        np.testing.assert_allclose(run(RAW[:size]), whole[:size], rtol=0, atol=1e-6 if within < 0.1 else 1 / 256)
    assert exported.difference == pytest.approx(float(np.abs(whole - want).max()), abs=1e-5)
    assert exported.agreement == np.mean(whole.argmax(-1) == want.argmax(-1))
    assert exported.source_accuracy == 0.75 and 0.55 <= exported.accuracy <= 0.95
    assert exported.form in ("litert_int8", "litert_float16") or exported.accuracy == 0.75
    assert 0 < exported.milliseconds <= exported.p95


def test_the_student_alone_is_in_it(exported, distilled, teacher):
    """The adapter and the teacher have kernels of shapes that the student has not, and more numbers than fit."""

    def bare(shape):
        return tuple(sorted(size for size in shape if size != 1))

    student = [tuple(variable.shape) for variable in distilled.student.variables]
    others = distilled.methods[0].variables + teacher.variables
    kernels = {bare(variable.shape) for variable in others if len(variable.shape) > 1} - set(map(bare, student))
    assert len(kernels) == 4, "adapter, two convolutions and the classifier of the teacher"
    held = list(runtimes.weights(exported.path))
    assert not kernels & set(map(bare, held))
    own = sum(map(math.prod, student))
    if exported.form == "saved_model":
        assert sorted(held) == sorted(student) and exported.numbers == own
    else:
        assert {bare(shape) for shape in student if len(shape) > 1} <= set(map(bare, held))
        assert own / 2 < exported.numbers <= own
    assert exported.bytes == runtimes.size(exported.path) > exported.numbers


def test_names_of_the_classes(exported, distilled):
    want = expected(distilled.student).argmax(-1)
    if exported.form == "saved_model":
        signatures = tf.saved_model.load(str(exported.path)).signatures
        answer = signatures["serving_default"](images=tf.constant(RAW))
        assert set(answer) == {"logits", "probabilities", "class"}
        assert [name.decode() for name in answer["class"].numpy()] == [NAMES[one] for one in want]
        np.testing.assert_allclose(tf.nn.softmax(answer["logits"]), answer["probabilities"], atol=1e-6)
        assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == list(NAMES)
    elif exported.form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
        assert session.get_modelmeta().custom_metadata_map["class_names"].split("\n") == list(NAMES)
        assert session.get_inputs()[0].shape == ["batch", *SHAPE]
    else:
        assert zipfile.ZipFile(exported.path).read("labels.txt").decode().split("\n") == list(NAMES)


def test_what_a_litert_file_computes_in(exported):
    if not exported.form.startswith("litert"):
        pytest.skip("of LiteRT alone")
    interpreter = runtimes.interpreter(exported.path)
    runner = interpreter.get_signature_runner("serving_default")
    images, answer = runner.get_input_details()["images"], runner.get_output_details()["probabilities"]
    assert images["dtype"] == np.uint8 and list(images["shape_signature"]) == [-1, *SHAPE]
    types = {each["dtype"] for each in interpreter.get_tensor_details() if each["shape"].size > 1}
    if exported.form == "litert_int8":
        assert images["quantization"] == (1.0, 0), "raw images go in as they are"
        assert answer["dtype"] == np.uint8 and answer["quantization"] == (1 / 256, 0)
        assert types == {np.uint8, np.int8} and np.float32 not in types
    else:
        assert answer["dtype"] == np.float32 and (np.float16 in types) == (exported.form == "litert_float16")
    interpreter = runtimes.interpreter(exported.path)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [3, *SHAPE])
    interpreter.allocate_tensors()
    assert {tuple(each["shape"]) for each in interpreter.get_output_details()} == {(3, CLASSES)}


def test_the_check_in_a_fresh_process(distilled, tmp_path):
    done = write("saved_model", distilled.student, tmp_path)
    classes = expected(distilled.student).argmax(-1)
    for recorded, code, text in ((classes, 0, "20 of 20 images"), ((classes + 1) % CLASSES, 1, "0 of 20 images")):
        np.savez(done.path / "check.npz", images=RAW, classes=recorded)
        ran = subprocess.run([sys.executable, CHECK, done.path], capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == code and text in ran.stdout and "kd_keras not loaded" in ran.stdout, ran.stderr


@pytest.mark.parametrize(
    "form, tolerance, message",
    [
        ("saved_model", -1, "saved_model within"),
        ("saved_model", Tolerance(agreement=1.1), "agreement=1.1"),
        ("litert", Tolerance(accuracy_drop=-0.5), "accuracy_drop=-0.5"),
        pytest.param("onnx", -1, "onnx within", marks=NEEDS_ONNX),
    ],
)
def test_an_export_that_differs_is_refused_and_the_old_one_stays(form, tolerance, message, tmp_path):
    path = tmp_path / WRITERS[form][1]
    (path if form == "saved_model" else tmp_path).mkdir(exist_ok=True)
    old = path / "saved_model.pb" if form == "saved_model" else path
    old.write_text("what stood there")
    with pytest.raises(ValueError, match=message):
        write(form, convolutional(), tmp_path, labels=np.zeros(20, int), tolerance=tolerance)
    assert old.read_text() == "what stood there" and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_is_more_than_the_student_is_refused(tmp_path):
    """Here the preprocessing brings a second network along, as constants."""
    model = convolutional()
    hidden = [np.array(variable) for variable in convolutional(40, classes=3).variables]

    def along(images):
        return images + 0.0 * sum(tf.reduce_sum(tf.constant(each)) for each in hidden)

    given = {"image_shape": SHAPE, "sample": RAW}
    with pytest.raises(ValueError, match=r"saved_model of 'net' alone, 453 numbers(.|\n)*\(3, 3, 40, 80\)"):
        saved_model(model, tmp_path / "out", normalise=along, **given)
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_not_finite_is_refused(tmp_path):
    model = convolutional()
    model.get_layer("logits").bias.assign(np.full(CLASSES, np.nan))
    with pytest.raises(ValueError, match="difference=nan"):
        write("saved_model", model, tmp_path)


@pytest.mark.parametrize(
    "form, options, message",
    [
        ("saved_model", {"sample": RAW / 255.0}, "sample= uint8 images"),
        ("saved_model", {"sample": RAW[:, :4]}, "(N, 8, 8, 3)"),
        ("saved_model", {"labels": np.zeros(3, int)}, "labels (20,), one an image"),
        ("saved_model", {"class_names": ["one"]}, "5 class names"),
        ("litert", {"precision": "int4"}, "a precision of LiteRT"),
        ("litert_int8", {"representative": None}, "representative= real images"),
        ("litert_int8", {"representative": RAW / 255.0}, "representative= uint8 images (N, 8, 8, 3)"),
    ],
)
def test_what_does_not_fit_is_said(form, options, message, tmp_path):
    with pytest.raises(ValueError) as raised:
        write(form, convolutional(), tmp_path, **options)
    assert message in str(raised.value) and not list(tmp_path.iterdir())


def test_places_that_are_no_export(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    given = {"image_shape": SHAPE, "normalise": normalise, "sample": RAW}
    with pytest.raises(ValueError, match="which is another's"):
        saved_model(convolutional(), tmp_path, **given)
    with pytest.raises(ValueError, match="ending in .tflite"):
        litert(convolutional(), tmp_path / "model", **given)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_without_the_extra_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match=r"tf2onnx, for ONNX(.|\n)*kd_keras\[onnx\]"):
        write("onnx", convolutional(), tmp_path)


@pytest.fixture(scope="module")
def early():
    """A network that stops at its first exit on half of the images."""
    keras.utils.set_random_seed(0)
    summed = models.multi_exit(convolutional(8, normalised=True))
    first = expected(models.single_exit(summed, 1)).max(-1)
    return models.EarlyExit(summed, float(np.median(first)))


@NEEDS_ONNX
def test_what_onnx_cannot_hold_is_said(early, tmp_path):
    with pytest.raises(ValueError, match="onnx of 'early_exit' that its runtime loads(.|\n)*Log1p"):
        write("onnx", early, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["litert", "litert_int8"])
def test_control_flow_in_litert(form, early, tmp_path):
    within = 0.2 if form == "litert_int8" else 1e-5  # in int8, an image near the threshold may go on
    done = write(form, early, tmp_path, tolerance=within)
    run, want = runtimes.load(done.path), expected(early)
    assert done.agreement >= 0.9
    for image, one in zip(RAW, want):
        np.testing.assert_allclose(run(image[None])[0], one, rtol=0, atol=within)


SMALL = {"mlp": {"hidden": (8,)}, "shufflenet_v2": {"width": 0.5}, "mobilenet_v2": {"width": 0.35}}
SMALL |= {"mobilenet_v3_small": {"width": 0.35}, "multi_exit/resnet8": {}, "vgg8": {}}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SMALL)
def test_architectures(name, form, tmp_path):
    keras.utils.set_random_seed(0)
    shape = (16, 16, 3)
    raw = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype("uint8")
    model = models.build(name, shape, CLASSES, **SMALL[name])
    options = {"representative": raw, "tolerance": Tolerance(0.1)} if form == "litert_int8" else {}
    write(form, model, tmp_path, shape, raw, **options)
    found = runtimes.load(tmp_path / WRITERS[form][1])(raw)
    np.testing.assert_allclose(found, expected(model, raw), rtol=0, atol=WITHIN.get(form, 1e-5))
