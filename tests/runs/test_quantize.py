"""Distillation of int8 students: the float student as starting point and teacher, the file, replicas, the report."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, distill, export, quantization_aware, train
from kd_keras.methods import KD
from kd_keras.networks.fake_quantization import FakeQuantize
from kd_keras.networks.quantization import float_layers
from kd_keras.networks.quantized_layers import QuantizedKernel, is_quantization_aware
from kd_keras.runs.run import load_network
from tests.support.networks import CLASSES, convolutional, mirrored
from tests.support.quantization import photographs
from tests.support.runs import trained

TINY = {"train_split": "train[:128]", "test_split": "test[:64]", "batch_size": 32, "methods": ["kd"]}


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), "float", 4)


@pytest.fixture(scope="module")
def int8_run(float_run):
    options = {**TINY, "data_dir": str(float_run.parent / "data"), "epochs": 2, "quantize": "int8"}
    return distill(teacher=float_run, student=float_run, run=float_run.parent / "int8", **options)


def test_the_float_student_learns_to_be_an_int8_student(float_run, int8_run):
    network = int8_run.model()
    assert is_quantization_aware(network)
    assert int8_run.is_complete and int8_run.settings["quantize"] == "int8"
    assert not is_quantization_aware(load_network(float_run))


def test_its_export_has_the_learned_ranges_and_its_predictions(int8_run):
    (result,) = export(int8_run, ["litert_int8"])
    assert result.agreement >= 0.95
    run = tf.lite.Interpreter(str(result.path)).get_signature_runner("serving_default")
    scale, _ = run.get_output_details()["logits"]["quantization"]
    quantizer = [layer for layer in int8_run.model().layers if isinstance(layer, FakeQuantize)][-1]
    assert scale == pytest.approx((quantizer.range[1] - quantizer.range[0]) / 255, rel=1e-5)


def test_its_onnx_file_has_its_predictions(tmp_path):
    pytest.importorskip("tf2onnx")
    options = {"data": "digits", "data_dir": str(tmp_path / "data"), "test_split": "test[:200]", "batch_size": 32}
    student = train(model="resnet8", epochs=2, optimizer="adam", learning_rate=0.003, run=tmp_path / "float", **options)
    options |= {"epochs": 1, "learning_rate": 1e-4}
    quantized = distill(teacher=student, student=student, quantize="int8", run=tmp_path / "int8", **options)
    (result,) = export(quantized, ["onnx"])
    assert (
        result.source_accuracy > 0.8
        and result.agreement >= 0.99
        and abs(result.accuracy - result.source_accuracy) <= 0.01
    )


def test_ranges_learned_by_gradient_are_saved_and_exported(float_run, tmp_path):
    options = {**TINY, "data_dir": str(float_run.parent / "data"), "epochs": 1, "quantize": "int8_lsq"}
    run = distill(teacher=float_run, student=float_run, run=tmp_path / "lsq", **options)
    quantizers = [layer for layer in run.model().layers if isinstance(layer, FakeQuantize) and layer.fixed is None]
    assert quantizers and all(layer.by_gradient for layer in quantizers)
    (result,) = export(run, ["litert_int8"])
    assert result.agreement >= 0.95


def test_named_layers_stay_in_float_and_kernels_have_four_bits(float_run, tmp_path, caplog):
    options = {**TINY, "data_dir": str(float_run.parent / "data"), "epochs": 1, "quantize": "int8"}
    with caplog.at_level("INFO", "kd_keras"):
        run = distill(
            teacher=float_run, student=float_run, keep_float=["logits"], kernel_bits=4, run=tmp_path / "run", **options
        )
    assert "In int8: all layers except net_logits." in [record.getMessage() for record in caplog.records]
    assert float_layers(run.model()) == ["net_logits"] and run.settings["keep_float"] == "logits"
    assert {layer.bits for layer in run.model().layers if isinstance(layer, QuantizedKernel)} == {4}
    with pytest.raises(ValueError, match="belong to quantize='int8', but received no quantize"):
        distill(teacher=float_run, student=float_run, keep_float=["logits"], run=tmp_path / "other", **TINY)


def test_an_untrained_student_and_an_unknown_quantization_are_refused(float_run, tmp_path):
    with pytest.raises(ValueError, match="quantize='int8' starts from a trained student, but 'mlp' starts from new"):
        distill(teacher=float_run, student="mlp", run=tmp_path / "run", quantize="int8", **TINY)
    with pytest.raises(ValueError, match="int8"):
        distill(teacher=float_run, student=float_run, run=tmp_path / "run", quantize="int4", **TINY)
    with pytest.raises(ValueError, match="needs optimizer='sgd'"):
        lsq = {**TINY, "quantize": "int8_lsq", "optimizer": "adam"}
        distill(teacher=float_run, student=float_run, run=tmp_path / "run", **lsq)
    int8 = quantization_aware(load_network(float_run), photographs(4, 8)[..., :1])
    with pytest.raises(ValueError, match="needs a float student, but .* is already quantization-aware"):
        distill(teacher=float_run, student=int8, run=tmp_path / "run", quantize="int8", **TINY)
    assert not (tmp_path / "run").exists()


def trained_on(strategy, batches, ranges):
    """The ranges, and the other variables, of an int8 student after some steps under a strategy."""
    keras.utils.set_random_seed(0)
    images = photographs(16, 8)
    with strategy.scope():
        teacher = convolutional(4, pixels=True)
        student = quantization_aware(convolutional(4, pixels=True), images, ranges=ranges)
        distiller = Distiller(student=student, teacher=teacher, methods=[KD()], hard_weight=0.1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss, jit_compile=False)
    distiller.fit(batches, epochs=1, verbose=0)
    return [np.array(variable) for variable in distiller.student.variables]


@pytest.mark.parametrize("ranges", ["average", "gradient"])
def test_two_replicas_learn_the_ranges_of_one(ranges):
    random = np.random.default_rng(0)
    images, labels = photographs(32, 8, seed=1).astype("float32"), random.integers(0, CLASSES, 32)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    one = trained_on(tf.distribute.get_strategy(), batches, ranges)
    two = trained_on(mirrored(2), batches, ranges)
    for expected, actual in zip(one, two, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
