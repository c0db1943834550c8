"""int8 files of networks with preprocessing inside read raw pixels, and lose no more than LiteRT's own conversion."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.special import softmax

from kd_keras.export import Tolerance, litert, load
from kd_keras.export.runtimes import interpreter

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype("uint8")
PREPROCESSING = {
    "to 0..1": lambda: [layers.Rescaling(1 / 255)],
    "to -1..1": lambda: [layers.Rescaling(1 / 127.5, -1.0)],
    "as EfficientNet": lambda: [layers.Rescaling(1 / 255), layers.Normalization(mean=[0.5] * 3, variance=[0.05] * 3)],
    "divided and multiplied": lambda: [
        layers.Rescaling(1 / 255),
        layers.Rescaling(255.0),
        layers.Rescaling(1 / 64, -2),
    ],
    "none": lambda: [layers.Conv2D(4, 1, use_bias=False, kernel_initializer=keras.initializers.Constant(0.01))],
}


def network(preprocessing):
    keras.utils.set_random_seed(0)
    kernel = keras.initializers.RandomNormal(stddev=3.0)
    body = [layers.Conv2D(16, 3, 2, activation="relu"), layers.GlobalAveragePooling2D()]
    return keras.Sequential(
        [keras.Input((16, 16, 3)), *preprocessing, *body, layers.Dense(4, kernel_initializer=kernel)]
    )


def plain_conversion(model, directory):
    """LiteRT's converter alone, from float pixels of 0 to 255 to float logits."""
    model.export(directory, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory), signature_keys=["serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in IMAGES.astype("float32"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def run(file, images):
    runtime = interpreter(file)
    runtime.allocate_tensors()
    place, result = runtime.get_input_details()[0]["index"], runtime.get_output_details()[0]["index"]
    logits = []
    for image in images.astype("float32"):
        runtime.set_tensor(place, image[None])
        runtime.invoke()
        logits.append(runtime.get_tensor(result)[0])
    return softmax(logits, -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PREPROCESSING)
def test_raw_pixels_stay_raw(name, tmp_path):
    model = network(PREPROCESSING[name]())
    options = {"precision": "int8", "representative": IMAGES, "tolerance": Tolerance()}
    litert(model, tmp_path / "ours.tflite", image_shape=(16, 16, 3), sample=IMAGES, **options)
    details = interpreter(tmp_path / "ours.tflite").get_input_details()[0]
    assert details["dtype"] is np.uint8 and details["quantization"] == (1.0, 0)
    (tmp_path / "plain.tflite").write_bytes(plain_conversion(model, tmp_path / "plain"))
    truth = softmax(model.predict(IMAGES.astype("float32"), verbose=0), -1)
    ours = np.abs(load(tmp_path / "ours.tflite")(IMAGES) - truth).mean()
    plain = np.abs(run(tmp_path / "plain.tflite", IMAGES) - truth).mean()
    assert ours < 1.5 * plain + 1 / 256
