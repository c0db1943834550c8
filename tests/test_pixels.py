"""Photographs from a folder of PNG files to every use of a network, which sees them as its weights expect.

Of each network two forms are used: the whole one, and its front, whose outputs are the values that the first
convolution reads. What both must give follows from the pixels of the photographs, `preprocess_input` of
keras.applications and the plain network of the same weights.
"""

import importlib.util
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Teacher, data
from kd_keras.evaluation import predict
from kd_keras.evaluation.evaluator import Candidate, Evaluator
from kd_keras.export.formats import litert, onnx, saved_model
from kd_keras.export.runtimes import interpreter, load
from kd_keras.models import build
from kd_keras.recording.writer import record
from tests.support.photographs import CLASSES, COUNT, KINDS, SHAPE, front_of, marked, photographs, write_photographs

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "tf2onnx"))
FORMATS = ["saved_model", "litert", "litert_int8"]
FORMATS += [pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed"))]


class Case(NamedTuple):
    """A network under test and what it must give for the photographs.

    Attributes:
        network: the whole network, from pixels to logits.
        front: the network up to what its first convolution reads, flattened.
        values: `(N, H * W * C)` float64, what the first convolution must read.
        logits: `(N, K)`, by the plain network.
        misled: `(N, K)`, by the plain network without preprocessing, which shows that the comparison notices it.
        plain: the plain network and the function that prepares its images; for keras.applications.
    """

    network: keras.Model
    front: keras.Model
    values: np.ndarray
    logits: np.ndarray
    misled: np.ndarray
    plain: tuple

    @property
    def tolerance(self):
        return 1e-5 * np.ptp(self.values)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module", params=map(marked, KINDS))
def case(request, source):
    """A network of each kind of preprocessing, built once."""
    keras.utils.set_random_seed(3)
    kind, pixels = KINDS[request.param], photographs().astype("float64")
    fitted = {} if kind.stock else {"normalization": data.measure(source)}
    network = build(request.param, SHAPE, CLASSES, **fitted, **kind.options)
    spread_logits(network, pixels)
    if kind.stock:
        constructor, module = kind.stock
        plain = constructor(
            weights=None, input_shape=SHAPE, classes=CLASSES, classifier_activation=None, **kind.options
        )
        plain.set_weights(network.get_weights())
        prepare = module.preprocess_input
    else:
        plain, prepare = keras.Model(network.get_layer("normalization").output, network.output), kind.formula
    prepared = prepare(pixels.copy()).astype("float32")
    logits, misled = (plain.predict(images, verbose=0) for images in (prepared, wrongly(prepared, pixels)))
    values = kind.formula(pixels).reshape(COUNT, -1)
    return Case(network, front_of(network), values, logits, misled, (plain, prepare) if kind.stock else ())


def spread_logits(network, pixels):
    """Changes the classifier so that the logits for the photographs have the mean 0 and the deviation 1."""
    classifier = next(layer for layer in reversed(network.layers) if layer.weights)
    logits = network.predict(pixels.astype("float32"), verbose=0)
    scale = logits.std()
    classifier.kernel.assign(classifier.kernel / scale)
    classifier.bias.assign((classifier.bias - logits.mean(0)) / scale)


def wrongly(prepared, pixels):
    """The pixels as they are, or if the plain network takes these, in the range from 0 to 1."""
    return pixels.astype("float32") / (255 if np.array_equal(prepared, pixels) else 1)


def test_the_pipeline(case, source):
    options = {"batch_size": COUNT, "shuffle": False, "epochs": 1}
    for ((images, _),) in ([*data.evaluation(source, batch_size=COUNT)], [*data.training(source, **options)]):
        np.testing.assert_allclose(case.front(images), case.values, rtol=0, atol=case.tolerance)
        np.testing.assert_allclose(case.network(images), case.logits, rtol=0, atol=1e-4)
    assert np.abs(case.misled - case.logits).max() > 0.1, "the logits do not depend on the preprocessing"


def test_the_evaluation(case, source):
    batches = data.evaluation(source, batch_size=3)
    np.testing.assert_allclose(predict(case.front, batches).logits, case.values, rtol=0, atol=case.tolerance)
    evaluator = Evaluator(source, batch_size=3)
    evaluator.evaluate([Candidate("network", case.network)])
    np.testing.assert_allclose(evaluator.predictions["network"].logits, case.logits, rtol=0, atol=1e-4)


def test_a_recording(case, source, tmp_path):
    def recorded(name, teacher):
        return record(tmp_path / name, teacher, source, batch_size=4).read(0, np.arange(COUNT))[0]

    np.testing.assert_allclose(recorded("front", Teacher(case.front)), case.values, rtol=0, atol=case.tolerance)
    np.testing.assert_allclose(recorded("whole", Teacher(case.network)), case.logits, rtol=0, atol=1e-4)
    if case.plain:
        plain, prepare = case.plain
        teacher = Teacher(plain, preprocess=prepare)
        np.testing.assert_allclose(recorded("plain", teacher), case.logits, rtol=0, atol=1e-4)


def exported(network, format, directory):
    """The path of an export; the comparison with the network is left to the test."""
    options = {"image_shape": SHAPE, "sample": photographs()}
    if format == "saved_model":
        return saved_model(network, directory / "model", **options).path
    if format == "onnx":
        return onnx(network, directory / "model.onnx", **options).path
    if format == "litert_int8":
        options |= {"precision": "int8", "representative": photographs(), "tolerance": 1.0}
    try:
        return litert(network, directory / "model.tflite", **options).path
    except ValueError as error:  # refused, as it must be; the features of an untrained network need extreme scales
        if format == "litert_int8" and "failed to create XNNPACK runtimeNode" in str(error):
            pytest.skip("LiteRT cannot run the scales of this untrained network in int8 on this processor")
        raise


def logits_of(path, images):
    """The logits of an export for uint8 images, by its own runtime."""
    if path.is_dir():
        return tf.saved_model.load(str(path)).signatures["serving_default"](images=images)["logits"].numpy()
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(path)).run(["logits"], {"images": images})[0]
    run = interpreter(path).get_signature_runner("serving_default")
    scale, zero = run.get_output_details()["logits"]["quantization"]
    logits = run(images=images)["logits"]
    return (logits.astype("float32") - zero) * scale if scale else logits


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_convolution_of_an_export(case, format, tmp_path):
    values = logits_of(exported(case.front, format, tmp_path), photographs())
    # The integers of int8 have 255 steps; one is lost to each of the two roundings, of the values and of the result.
    tolerance = 2 * np.ptp(case.values) / 255 if format == "litert_int8" else case.tolerance
    np.testing.assert_allclose(values, case.values, rtol=0, atol=tolerance)


def exports():
    """Every network in every format; slow for the larger networks, unless as a SavedModel."""
    for name in KINDS:
        for format in FORMATS:
            marks = [*marked(name).marks, *getattr(format, "marks", ())]
            if name not in ("resnet8", "applications/MobileNet") and format != "saved_model":
                marks = [*marks, pytest.mark.slow]
            yield pytest.param(name, *getattr(format, "values", [format]), marks=marks)


@pytest.mark.parametrize("case, format", exports(), indirect=["case"])
def test_the_probabilities_of_an_export(case, format, tmp_path):
    probabilities = load(exported(case.network, format, tmp_path))(photographs())
    expected, misled = (np.array(keras.ops.softmax(logits)) for logits in (case.logits, case.misled))
    tolerance = 0.1 if format == "litert_int8" else 1e-4
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=tolerance)
    assert np.abs(misled - expected).max() > 2 * tolerance
