"""KerasHub's image classifiers: built anew, from a folder, with the preprocessing of their image converters."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras.export import runtimes
from kd_keras.models import build
from kd_keras.networks.taps import Tapped

SMALL = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 16],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}
PIXELS = np.random.default_rng(0).integers(0, 256, size=(2, 32, 32, 3)).astype("float32")
SCALE, OFFSET = [1 / 58.0, 1 / 57.0, 1 / 56.0], [-2.1, -2.0, -1.8]


def small(classes=5, **options):
    pytest.importorskip("keras_hub")
    return build("hub/ResNetImageClassifier", (32, 32, 3), classes, **SMALL, **options)


def stock(converter=None):
    """A classifier as KerasHub itself builds it, with or without preprocessing in front."""
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.ResNetBackbone(image_shape=(32, 32, 3), **SMALL)
    preprocessor = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter) if converter else None
    return hub.models.ResNetImageClassifier(backbone=backbone, num_classes=5, preprocessor=preprocessor)


def backbone_of(network):
    """The backbone alone, as a function of preprocessed images."""
    return next(layer for layer in network.layers if type(layer).__name__ == "ResNetBackbone")


def test_a_classifier_built_anew_reads_pixels_divided_by_255():
    network = small()
    assert network.output_shape == (None, 5)
    specs = Tapped(network, ["stages", "embedding", "logits"]).specs
    assert [spec.shape[1:] for spec in specs["stages"]] == [(16, 16, 64), (8, 8, 64), (4, 4, 16)]
    assert specs["embedding"].shape == (None, 16) and specs["logits"].shape == (None, 5)
    np.testing.assert_allclose(Tapped(network, ["logits"])(PIXELS, False)[0], network(PIXELS), atol=1e-6)
    seen = network.get_layer("preprocessing")(PIXELS)
    np.testing.assert_allclose(seen, PIXELS / 255, atol=1e-6)


def test_layers_keep_the_paths_that_kerashub_gives_them():
    names = []
    for build_network in (stock, small):
        keras.utils.clear_session()  # both number their unnamed layers from the same start
        names.append([layer.name for layer in build_network().layers])
    assert names[1] == ["image", "preprocessing", *names[0][1:]]


def test_a_preset_with_an_image_converter_sees_what_that_makes_of_the_image(tmp_path):
    hub = pytest.importorskip("keras_hub")
    converter = hub.layers.ResNetImageConverter(image_size=(32, 32), scale=SCALE, offset=OFFSET)
    original = stock(converter)
    original.save_to_preset(tmp_path / "preset")
    network = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5)
    seen = np.asarray(network.get_layer("preprocessing")(PIXELS))
    np.testing.assert_allclose(seen, np.asarray(converter(PIXELS)), atol=1e-5)
    np.testing.assert_allclose(seen, PIXELS * np.array(SCALE) + np.array(OFFSET), atol=1e-5)
    expected = original.predict(PIXELS, verbose=0)  # which preprocesses
    np.testing.assert_allclose(network(PIXELS), expected, rtol=1e-4, atol=1e-5)
    network.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(PIXELS), network(PIXELS))


def test_a_preset_whose_converter_does_nothing_reads_raw_pixels(tmp_path):
    hub = pytest.importorskip("keras_hub")
    original = stock(hub.layers.ResNetImageConverter())
    original.save_to_preset(tmp_path / "preset")
    network = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5)
    np.testing.assert_allclose(network(PIXELS), original(PIXELS), rtol=1e-4, atol=1e-4)


def test_a_preset_without_an_image_converter(tmp_path):
    original = stock()
    original.save_to_preset(tmp_path / "preset")
    original.backbone.save_to_preset(tmp_path / "backbone")
    images = PIXELS / 255
    same = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5)
    np.testing.assert_allclose(same(PIXELS), original(images), atol=1e-5)
    for folder in ("preset", "backbone"):
        network = build(f"hub/{tmp_path / folder}", (32, 32, 3), 7)
        assert network.output_shape == (None, 7)
        np.testing.assert_allclose(backbone_of(network)(images), original.backbone(images), atol=1e-6)
    initial = build(f"hub/{tmp_path / 'preset'}", (32, 32, 3), 5, weights=False)
    assert np.abs(initial(PIXELS) - original(images)).max() > 1e-3


def test_a_preset_teaches_only_the_classes_that_its_own_classifier_has(tmp_path):
    original = stock()
    original.save_to_preset(tmp_path / "preset")
    original.backbone.save_to_preset(tmp_path / "backbone")
    shape = {"data": "digits", "image_size": (32, 32), "image_channels": 3, "data_dir": str(tmp_path)}
    options = {**shape, "student": "mlp(hidden=(4,))", "train_split": "train[:32]", "test_split": "test[:32]"}
    for folder, classifier in (("preset", "a classifier of 5 classes"), ("backbone", "no classifier")):
        teacher = f"hub/{tmp_path / folder}"
        with pytest.raises(ValueError, match=f"{classifier} and the images have 10"):
            kd.distill(teacher=teacher, **options, epochs=1, run=tmp_path / "run")
    features = {"methods": ["rkd"], "epochs": 1, "test_every": 1}
    assert kd.distill(teacher=teacher, **options, **features, run=tmp_path / "run").is_complete


def test_a_backbone_that_calls_its_image_shape_input_shape():
    pytest.importorskip("keras_hub")
    options = {"width_coefficient": 0.25, "depth_coefficient": 0.25, "stackwise_kernel_sizes": [3]}
    options |= {"stackwise_num_repeats": [1], "stackwise_input_filters": [16], "stackwise_output_filters": [16]}
    options |= {"stackwise_expansion_ratios": [1], "stackwise_strides": [1], "stackwise_block_types": ["v1"]}
    options |= {"stackwise_squeeze_and_excite_ratios": [0.25], "stem_conv_padding": "same"}
    network = build("hub/EfficientNetImageClassifier", (32, 32, 3), 5, **options)
    assert network.input_shape == (None, 32, 32, 3) and network.output_shape == (None, 5)


def test_invalid_names_and_arguments(tmp_path):
    pytest.importorskip("keras_hub")
    with pytest.raises(ValueError, match="ResNetImageClassifier"):
        build("hub/ResNetImageClasifier", (32, 32, 3), 5)
    with pytest.raises(ValueError, match="Did you mean .*resnet_50_imagenet"):
        build("hub/resnet_50_imagenets", (32, 32, 3), 5)
    with pytest.raises(TypeError, match="stackwise_num_filters"):
        build("hub/ResNetImageClassifier", (32, 32, 3), 5, filters=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Check the connection, the folder and the options"):
        build(f"hub/{tmp_path / 'empty'}", (32, 32, 3), 5)


def test_without_kerashub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"kd_keras\[hub\]"):
        build("hub/ResNetImageClassifier", (32, 32, 3), 5)
    assert build("resnet8", (8, 8, 3), 5).count_params()


def test_it_trains_a_step():
    network = small()
    network.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(network.train_on_batch(PIXELS, np.array([0, 1]), return_dict=True)["loss"])


@pytest.mark.filterwarnings("ignore:After training", "ignore:The teacher is right", "ignore:The BatchNorm layers")
def test_a_transformer_of_kerashub_is_taught_saved_and_exported(tmp_path):
    pytest.importorskip("keras_hub")
    random = np.random.default_rng(0)
    labels = np.arange(32) % 3
    images = (random.integers(0, 100, (32, 16, 16, 3)) + 70 * labels[:, None, None, None]).astype("uint8")
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    settings = {"data": data, "test_data": data, "batch_size": 16, "epochs": 1}
    teacher = kd.train(model="mlp(hidden=(8,))", **settings, run=tmp_path / "teacher")
    student = "hub/ViTImageClassifier(patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)"
    run = kd.distill(teacher=teacher, student=student, methods=["kd"], **settings, run=tmp_path / "student")
    network = run.model()
    assert network.get_layer("preprocessing") and type(network).__name__ == "Functional"
    exports = kd.export(run, ["saved_model", "litert", "onnx"], data=data)
    expected = keras.ops.softmax(network(images.astype("float32"), training=False))
    for export in exports:
        np.testing.assert_allclose(runtimes.load(export.path)(images), expected, atol=1e-5)
    taught = kd.distill(teacher=run, student="mlp", methods=["kd"], **settings, run=tmp_path / "taught")
    assert taught.is_complete
