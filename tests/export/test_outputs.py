"""An export's probabilities are those of the student, whatever its last layer and its precision are."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras import models
from kd_keras.export import litert, load, saved_model

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype("uint8")


def network(units, activation, *after):
    kernel = keras.initializers.RandomNormal(stddev=4.0, seed=1)
    first = layers.Conv2D(8, 3, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=0))
    body = [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), first, layers.GlobalAveragePooling2D()]
    return keras.Sequential([*body, layers.Dense(units, activation=activation, kernel_initializer=kernel), *after])


@keras.saving.register_keras_serializable("tests")
class Hidden(keras.Model):
    """A network whose activation is within its call."""

    def __init__(self, activation, units=4):
        super().__init__()
        self.inner, self.activation = network(units, None), activation

    def call(self, images):
        return self.activation(self.inner(images))


def hidden(activation, units=4):
    model = Hidden(activation, units)
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


STUDENTS = {
    "softmax": lambda: network(4, "softmax"),
    "softmax, then linear in float32": lambda: network(4, "softmax", layers.Activation("linear", dtype="float32")),
    "softmax, then Reshape": lambda: network(4, "softmax", layers.Reshape((4,))),
    "softmax, subclassed": lambda: hidden(keras.ops.softmax),
    "softmax in a Lambda": lambda: network(4, None, layers.Lambda(keras.ops.softmax)),
    "sigmoid, four labels": lambda: network(4, "sigmoid"),
    "sigmoid, one unit": lambda: network(1, "sigmoid"),
    "sigmoid, one unit, squeezed": lambda: network(1, "sigmoid", layers.Reshape(())),
    "sigmoid, one unit, subclassed": lambda: hidden(keras.ops.sigmoid, units=1),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_exported_probabilities_are_what_predict_returns(name, tmp_path):
    student = STUDENTS[name]()
    want = student.predict(IMAGES.astype("float32"), verbose=0)
    export = saved_model(student, tmp_path / "m", image_shape=(8, 8, 3), sample=IMAGES)
    got = load(tmp_path / "m")(IMAGES)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)
    assert export.difference < 1e-5 and want.std(0).max() > 0.01


def test_exported_probabilities_of_logits_are_their_softmax(tmp_path):
    student = network(4, None)
    want = keras.ops.softmax(student.predict(IMAGES.astype("float32"), verbose=0))
    saved_model(student, tmp_path / "m", image_shape=(8, 8, 3), sample=IMAGES)
    np.testing.assert_allclose(load(tmp_path / "m")(IMAGES), want, atol=1e-5)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: network(1, None), "a single unit without a sigmoid.*Append"),
        (lambda: network(4, "softmax", layers.Rescaling(100.0)), "rescales the probabilities"),
        (lambda: hidden(lambda z: 100 * keras.ops.softmax(z)), "a softmax that is rescaled"),
    ],
)
def test_an_output_that_is_neither_logits_nor_probabilities_is_refused(make, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        saved_model(make(), tmp_path / "m", image_shape=(8, 8, 3), sample=IMAGES)


def test_a_single_unit_has_two_classes(tmp_path):
    student = network(1, "sigmoid")
    truth = (student.predict(IMAGES.astype("float32"), verbose=0)[:, 0] > 0.5).astype(int)
    options = {"image_shape": (8, 8, 3), "sample": IMAGES, "class_names": ["cat", "dog"]}
    export = saved_model(student, tmp_path / "m", labels=truth, **options)
    assert export.accuracy == export.source_accuracy == export.agreement == 1.0
    served = keras.layers.TFSMLayer(tmp_path / "m", call_endpoint="serving_default")(IMAGES)
    assert [name.decode() for name in served["class"].numpy()] == [options["class_names"][number] for number in truth]


def test_a_wrong_file_is_rejected_by_the_comparison_with_predict(tmp_path, monkeypatch):
    student = network(4, "softmax")
    monkeypatch.setattr(student, "predict", lambda images, **options: np.eye(4)[np.zeros(len(images), int)])
    with pytest.raises(ValueError, match="is rejected: compared with its source"):
        saved_model(student, tmp_path / "m", image_shape=(8, 8, 3), sample=IMAGES)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_student_in_mixed_precision_is_exported_in_float32(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        student = models.build("resnet8", (16, 16, 3), 4)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype("uint8")
    before = student.predict(images.astype("float32"), verbose=0)
    options = {"image_shape": (16, 16, 3), "sample": images}
    assert saved_model(student, tmp_path / "m", **options).difference < 1e-5
    for precision in ("float32", "float16", "int8"):
        file = tmp_path / f"{precision}.tflite"
        litert(student, file, precision=precision, representative=images, **options)
    np.testing.assert_array_equal(student.predict(images.astype("float32"), verbose=0), before)
    assert {layer.dtype_policy.name for layer in student.layers if layer.weights} == {policy}


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_a_quantized_student_with_an_activation_is_exported(mode, tmp_path):
    student = network(4, "softmax")
    student.quantize(mode)
    want = student.predict(IMAGES.astype("float32"), verbose=0)
    saved_model(student, tmp_path / "m", image_shape=(8, 8, 3), sample=IMAGES)
    np.testing.assert_allclose(load(tmp_path / "m")(IMAGES), want, atol=1e-4)
