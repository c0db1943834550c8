"""The zoo: layers and counts as published, initial values, names, and invalid arguments."""

import csv
import itertools
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import models
from kd_keras.evaluation import macs
from kd_keras.export.formats import onnx
from kd_keras.models import ZOO, applications, build, names
from kd_keras.networks.taps import Tapped
from kd_keras.runs.parsing import parse_call

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "models.json"
IN_REFERENCE = ["resnet8", "resnet20", "resnet56", "resnet8x4", "resnet32x4", "wrn_16_2", "wrn_40_2", "vgg8", "vgg13"]
IN_REFERENCE += ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2"]
OTHER_NAMES = {"mobilenet_v2": "MobileNetV2", "shufflenet_v1": "ShuffleV1", "shufflenet_v2": "ShuffleV2"}
SMALLEST = ["mlp", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "resnet8", "resnet50", "shufflenet_v1"]
SMALLEST += [
    "deit_tiny",
    "resnet18_imagenet",
    "mobilefacenet",
    "shufflenet_v1_imagenet",
    "shufflenet_v2",
    "shufflenet_v2_imagenet",
    "vgg8",
    "vit_lite",
    "wrn_16_1",
]  # one per form


def pixels(count, *shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype("float32")


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def published():
    with open(ROOT / "experiments" / "results" / "zoo_published.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def kernels(model):
    """How many convolutions there are of each form, out x in / groups x height x width / stride, padding, groups."""
    counts = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            height, width, outs, _ = layer.kernel.shape
            ins, groups = 1, outs
        elif isinstance(layer, keras.layers.Conv2D):
            (height, width, ins, outs), groups = layer.kernel.shape, layer.groups
        else:
            continue
        text = f"{outs}x{ins}x{height}x{width}/s{layer.strides[0]}p{height // 2}g{groups}"
        counts[text] = counts.get(text, 0) + 1
    return counts


@pytest.mark.parametrize("name", IN_REFERENCE)
def test_everything_equals_the_reference(name):
    if not REFERENCE.exists():
        pytest.skip("the reference is not a part of the project")
    entry = json.loads(REFERENCE.read_text())["models"][OTHER_NAMES.get(name, name)]
    model = build(name, (32, 32, 3), 100)
    assert trainable(model) == entry["params"] and macs(model) == entry["macs_per_image"]
    assert kernels(model) == entry["conv_weights_OIHW"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(layer.use_bias for layer in convolutions) == entry["convs_with_bias"]
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == entry["layers"]["bn"] and kinds.count("Dense") == 1
    _, outputs = Tapped(model, ["stages:stem", "embedding"])(pixels(2, 32, 32, 3), training=True)
    maps = outputs["stages:stem"]
    assert [list(stage.shape) for stage in maps] == entry["feats_nhwc"]
    assert [bool(np.min(stage) >= 0) for stage in maps] == entry["feats_nonnegative"]
    assert list(outputs["embedding"].shape) == entry["pooled_feat"]


@pytest.mark.parametrize("name", IN_REFERENCE)
def test_counts_as_published(name):
    """As the test before, without the reference, which is not a part of the project."""
    row = next(row for row in published() if row["model"] == name and row["source"] == "RepDistiller")
    model = build(name, (32, 32, 3), 100)
    assert (trainable(model), macs(model)) == (int(row["parameters"]), int(row["macs"]))


@pytest.mark.parametrize("row", [row for row in published() if row["source"] != "RepDistiller"], ids=str)
def test_counts_of_other_sources(row):
    """To the digits in print, unless the row says why not."""
    _, options = parse_call(f"f({row['options']})")
    model = build(row["model"], (int(row["size"]), int(row["size"]), 3), int(row["classes"]), **options)
    for count, text in ((trainable(model), row["parameters"]), (macs(model) if row["macs"] else 0, row["macs"])):
        unit = {"M": 10**6, "G": 10**9}.get(text[-1:], 1)
        number = text.rstrip("MG")
        last_digit = 10.0 ** -len(number.partition(".")[2])
        if text and not row["note"]:
            assert abs(count / unit - float(number)) <= last_digit / 2
        elif text:
            assert abs(count / unit - float(number)) <= max(last_digit, 0.015 * float(number))


@pytest.mark.parametrize("name, blocks", [("wrn_16_1", 2), ("wrn_40_1", 6), ("wrn_16_2", 2), ("wrn_40_2", 6)])
def test_parameters_of_wide_networks_by_hand(name, blocks):
    """Convolutions of 9 c c', BatchNorms of 2 c before each, shortcuts of c c' where a width changes."""
    widths = [16, *(int(name[-1]) * channels for channels in (16, 32, 64))]
    count = 3 * 9 * 16
    for before, width in itertools.pairwise(widths):
        count += 9 * before * width + (2 * blocks - 1) * 9 * width**2 + (before * width if before != width else 0)
        count += 2 * before + (2 * blocks - 1) * 2 * width
    assert trainable(build(name, (32, 32, 3), 100)) == count + 2 * widths[-1] + 100 * (widths[-1] + 1)


@pytest.mark.parametrize(
    "name, application, width",
    [
        ("mobilenet_v1", "MobileNet", 1.0),
        ("mobilenet_v1", "MobileNet", 0.25),
        ("mobilenet_v3_small", "MobileNetV3Small", 1.0),
        ("mobilenet_v3_small", "MobileNetV3Small", 0.75),
    ],
)
def test_mobile_networks_have_the_layers_of_keras_applications(name, application, width):
    """They differ only in their strides; the classifier of MobileNetV3 is a 1x1 convolution in keras.applications."""
    stock = build(f"applications/{application}", (64, 64, 3), 100, alpha=width)
    network = build(name, (32, 32, 3), 100, width=width)
    assert network.count_params() == stock.count_params()

    def sizes(model):
        return sorted(tuple(variable.shape) for variable in model.trainable_variables if len(variable.shape) == 4)

    dense = [layer.kernel.shape for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert sizes(stock) == sorted([*sizes(network), *((1, 1, *shape) for shape in dense)])


@pytest.mark.parametrize("name, application", [("vgg16", "VGG16"), ("vgg19", "VGG19")])
def test_vgg_has_the_convolutions_of_keras_applications(name, application):
    backbone = getattr(keras.applications, application)(weights=None, include_top=False, input_shape=(32, 32, 3))
    network = build(name, (32, 32, 3), 100)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms = sum(layer.count_params() for layer in norms)
    assert network.count_params() - norms - 100 * 513 == backbone.count_params()


def test_vgg_pools_once_more_above_32_pixels():
    assert [spec.shape[1] for spec in Tapped(build("vgg8", (64, 64, 3), 10), ["stages"]).specs["stages"]] == [
        32, 16, 8, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet20", "vgg13", "wrn_16_1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
def test_every_layer_draws_its_own_initial_values(name):
    first, again, other = [], [], []
    for values, seed in ((first, 1), (again, 1), (other, 2)):
        keras.utils.set_random_seed(seed)
        model = build(name, (8, 8, 3), 10)
        values.extend(np.array(v) for v in model.trainable_variables if v.path.endswith("kernel"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    shapes = {}
    for value in first:
        assert not any(np.array_equal(value, same) for same in shapes.get(value.shape, []))
        shapes.setdefault(value.shape, []).append(value)


def test_the_channel_shuffle_distributes_channels_over_groups():
    from kd_keras.models.base import channel_shuffle

    inputs = keras.Input((3, 2, 12))
    shuffled = keras.Model(inputs, channel_shuffle(inputs, 3, "shuffle"))
    images = np.random.default_rng(0).normal(size=(2, 3, 2, 12)).astype("float32")
    order = [group * 4 + place for place in range(4) for group in range(3)]
    np.testing.assert_array_equal(shuffled(images), images[..., order])
    assert all(len(layer.output.shape) == 4 for layer in shuffled.layers)


def test_a_convolution_in_groups_is_that_of_keras():
    from kd_keras.models.base import GroupedConv2D

    images = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype("float32")
    stock, grouped = keras.layers.Conv2D(9, 3, groups=3), GroupedConv2D(9, 3, groups=3)
    stock(images), grouped(images)
    grouped.set_weights(stock.get_weights())
    np.testing.assert_allclose(grouped(images), stock(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALLEST)
def test_small_gray_images_and_loading_from_a_file(name, tmp_path):
    model = build(name, (8, 8, 1), 10)
    logits = np.array(model(pixels(2, 8, 8, 1)))
    assert logits.shape == (2, 10) and np.isfinite(logits).all()
    zeros = np.zeros((1, 8, 8, 1))
    np.testing.assert_array_equal(Tapped(model, ["logits"])(zeros, False)[0], model(zeros))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(zeros), model(zeros))


QUICK = ("resnet8", "mobilenet_v2", "shufflenet_v2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SMALLEST])
def test_a_step_in_half_precision_and_a_saved_model(name, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    # Not smaller: a BatchNorm over maps of one pixel, in a batch of four, has gradients out of the range of float16.
    images = pixels(4, 32, 32, 3)
    model = build(name, (32, 32, 3), 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=8.0)
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(variable) for variable in model.trainable_variables]
    assert np.isfinite(model.train_on_batch(images, np.arange(4), return_dict=True)["loss"])
    assert any(np.abs(np.array(a) - b).max() > 0 for a, b in zip(model.trainable_variables, before, strict=True))
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(images), model(images, training=False), rtol=1e-2, atol=1e-2)  # of float16


@pytest.mark.parametrize("name", [pytest.param("shufflenet_v1", marks=pytest.mark.slow), "shufflenet_v2"])
def test_the_shuffle_in_litert_and_onnx(name, tmp_path):
    model = build(name, (8, 8, 3), 10, **({"groups": 2} if name == "shufflenet_v1" else {}))
    image = pixels(1, 8, 8, 3)
    expected = np.array(model(image))
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    kinds = [operation["op_name"] for operation in interpreter._get_ops_details()]
    assert kinds.count("TRANSPOSE") == sum(type(layer).__name__ == "Permute" for layer in model.layers)
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    # Keras's own export to ONNX loses the constants of its Normalization layer, with which the zoo's networks begin.
    onnx(model, tmp_path / "model.onnx", image_shape=(8, 8, 3), sample=image.astype("uint8"))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    logits = session.run(["logits"], {"images": image.astype("uint8")})[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_smallest_stand_for_every_form():
    """Of each function that builds: its name, or for a family of depths that of the family."""
    functions = {name: getattr(getattr(models, name), "func", None) for name in ZOO}
    assert {functions[name] or name for name in ZOO} == {functions[name] or name for name in SMALLEST}


def test_every_classifier_of_keras_applications_is_known():
    assert len(applications.names()) >= 38 and {"ResNet50", "VGG16", "MobileNet"} <= set(applications.names())
    assert "applications/MobileNetV3Small" in names()


def test_an_application_and_weights_from_a_file(tmp_path):
    model = build("applications/mobilenet", (32, 32, 3), 7, alpha=0.25)
    model.save_weights(tmp_path / "some.weights.h5")
    again = build("applications/MobileNet", (32, 32, 3), 7, alpha=0.25, weights=str(tmp_path / "some.weights.h5"))
    images = pixels(2, 32, 32, 3)
    np.testing.assert_array_equal(model(images), again(images))
    assert Tapped(model, ["logits"]).specs["logits"].shape == (None, 7)
    assert np.array(model(images)).min() < 0  # logits, no softmax


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("resnet21", (32, 32, 3), 10), ValueError, "Did you mean .*resnet20"),
        (("applications/ResNet51", (32, 32, 3), 10), ValueError, "ResNet50"),
        (("resnet20", (32, 32), 10), ValueError, r"\(height, width, channels\)"),
        (("resnet20", (32, 0, 3), 10), ValueError, "positive"),
        (("resnet20", (32, 32, 3), 1), ValueError, "two classes"),
    ],
)
def test_invalid_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        build(*arguments)


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("mobilenet_v2", {"widht": 0.5}, TypeError, "widht"),
        ("resnet8", {"depth": 9}, TypeError, "depth"),
        ("embedder/mlp", {"hidden": (8,)}, TypeError, "dimension.*scale.*received hidden.*backbone="),
        ("detector/mobilenet_v2", {"widht": 8}, TypeError, "width.*received widht.*backbone="),
        ("mobilenet_v1", {"width": 0.01}, ValueError, "1/32"),
        ("mobilenet_v3_small", {"width": 0}, ValueError, "greater than 0"),
        ("shufflenet_v1", {"groups": 5}, ValueError, "1, 2, 3, 4, 8"),
        ("shufflenet_v1", {"width": 0.33}, ValueError, "multiple of 12"),
        ("shufflenet_v1_imagenet", {"width": 0.75}, ValueError, "0.25, 0.5, 1.0"),
        ("shufflenet_v2", {"width": 0.75}, ValueError, "0.5, 1.0, 1.5, 2.0"),
    ],
)
def test_invalid_options(name, options, error, message):
    with pytest.raises(error, match=message):
        build(name, (32, 32, 3), 10, **options)


def test_the_weight_constraint_of_the_mlp_holds_after_an_update():
    model = build("mlp", (4, 4, 1), 3, hidden=(8,), input_dropout=0.2, dropout=0.5, max_norm=0.5)
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.5]
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4, 4, 1)), np.ones((8, 3)), verbose=0)
    into_a_unit = np.linalg.norm(model.get_layer("hidden1").kernel, axis=0)  # he_normal begins at a length of 1.4
    np.testing.assert_allclose(into_a_unit, 0.5, rtol=1e-5)
