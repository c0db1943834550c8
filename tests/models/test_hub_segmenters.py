"""KerasHub's SegFormer and DeepLabV3+: images of any size, presets, the loss of masks, teacher and student."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import methods, models
from kd_keras.distiller import Distiller
from kd_keras.segmentation import SegmentationLoss

hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")

SHAPE = (32, 48, 3)
MIT = {
    "layerwise_depths": [1, 1, 1, 1],
    "num_layers": 4,
    "layerwise_num_heads": [1, 1, 1, 1],
    "layerwise_sr_ratios": [8, 4, 2, 1],
    "max_drop_path_rate": 0.0,
    "layerwise_patch_sizes": [7, 3, 3, 3],
    "layerwise_strides": [4, 2, 2, 2],
    "hidden_dims": [8, 10, 12, 14],
}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 16, 16, 16],
    "stackwise_num_blocks": [1, 1, 1, 1],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
ASPP = {"spatial_pyramid_pooling_key": "P5", "upsampling_size": 8, "dilation_rates": [1], "low_level_feature_key": "P2"}
OPTIONS = {
    "SegFormerImageSegmenter": {"encoder": MIT, "projection_filters": 8},
    "DeepLabV3ImageSegmenter": {"encoder": RESNET, **ASPP},
}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (4, *SHAPE)).astype("float32")
MASKS = RANDOM.integers(-1, 3, (4, *SHAPE[:2])).astype("int32")


def build(name, shape=SHAPE, classes=3):
    keras.utils.set_random_seed(0)
    return models.build(f"hub/{name}", shape, classes, **OPTIONS[name])


@pytest.fixture(scope="module")
def segformer():
    return build("SegFormerImageSegmenter")


@pytest.fixture(scope="module")
def oblong():
    """A SegFormer of KerasHub that was built for images that are not square."""
    encoder = hub.models.MiTBackbone(image_shape=(64, 96, 3), **MIT)
    backbone = hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=8)
    return hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=3)


def test_an_oblong_segformer_of_kerashub_fails_at_its_first_batch(oblong):
    """The reason why `build` pads images; if KerasHub mends it, padding and refusal can go."""
    assert oblong.output_shape == (None, 64, 96, 3)
    with pytest.raises(Exception, match="(?i)reshape"):
        oblong(np.zeros((1, 64, 96, 3), "float32"), training=False)


def test_it_is_refused_before_training(oblong):
    other = models.build("segmenter/resnet8", (64, 96, 3), 3, width=8)
    for student, teacher in ((oblong, other), (other, oblong)):
        with pytest.raises(ValueError, match="square images.* one for 64 x 96.*hub/SegFormerImageSegmenter"):
            Distiller(student=student, teacher=teacher, methods=[methods.KD()])


def padded_logits(network, kind, size):
    """The logits of KerasHub's network inside, on images that are padded by hand."""
    inner = next(layer for layer in network.layers if type(layer).__name__ == kind)
    padding = [(0, 0), (0, size[0] - SHAPE[0]), (0, size[1] - SHAPE[1]), (0, 0)]
    return np.asarray(inner(np.pad(IMAGES / 255, padding), training=False))[:, : SHAPE[0], : SHAPE[1]]


def test_oblong_images_are_padded_to_a_square(segformer):
    assert segformer.output_shape == (None, *SHAPE[:2], 3)
    expected = padded_logits(segformer, "SegFormerImageSegmenter", (64, 64))
    np.testing.assert_allclose(segformer(IMAGES, training=False), expected, atol=1e-5)


@pytest.mark.slow
def test_deeplab_is_padded_to_multiples_of_its_stride():
    network = build("DeepLabV3ImageSegmenter")
    assert network.output_shape == (None, *SHAPE[:2], 3)
    expected = padded_logits(network, "DeepLabV3ImageSegmenter", (32, 64))
    np.testing.assert_allclose(network(IMAGES, training=False), expected, atol=1e-5)


def test_a_preset_is_rebuilt_for_other_images_and_classes(segformer, tmp_path):
    inner = next(layer for layer in segformer.layers if type(layer).__name__ == "SegFormerImageSegmenter")
    inner.save_to_preset(tmp_path / "preset")
    same = models.build(f"hub/{tmp_path / 'preset'}", SHAPE, 3)
    np.testing.assert_allclose(same(IMAGES, training=False), segformer(IMAGES, training=False), atol=1e-5)
    other = models.build(f"hub/{tmp_path / 'preset'}", (40, 30, 3), 5)
    assert other.output_shape == (None, 40, 30, 5)
    (copy,) = [layer for layer in other.layers if type(layer).__name__ == "SegFormerImageSegmenter"]
    for weight, original in list(zip(copy.weights, inner.weights, strict=True))[:-2]:  # the last two are the classifier
        np.testing.assert_array_equal(weight, original)


def test_a_saved_network_predicts_the_same(segformer, tmp_path):
    segformer.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(loaded(IMAGES, training=False), segformer(IMAGES, training=False), atol=1e-6)


def fit(student, teacher):
    distiller = Distiller(student=student, teacher=teacher, methods=[methods.KD(), methods.CWD()], hard_weight=1.0)
    distiller.compile(keras.optimizers.Adam(0.003), SegmentationLoss(), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, MASKS)).batch(2)
    return distiller, distiller.fit(data, epochs=2, verbose=0).history


def test_it_teaches_a_student_and_ignored_pixels_have_no_loss(segformer):
    keras.utils.set_random_seed(0)
    student = models.build("segmenter/resnet8", SHAPE, 3, width=8)
    before = [np.array(weight) for weight in segformer.weights]
    distiller, history = fit(student, segformer)
    assert np.isfinite(history["loss"]).all()
    for weight, value in zip(segformer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    logits = np.asarray(student(IMAGES, training=False), "float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = MASKS >= 0
    expected = -np.take_along_axis(log_p, np.maximum(MASKS, 0)[..., None], -1)[..., 0][valid].mean()
    found = distiller.evaluate(
        tf.data.Dataset.from_tensor_slices((IMAGES, MASKS)).batch(4), verbose=0, return_dict=True
    )
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_it_learns_as_a_student(name):
    keras.utils.set_random_seed(1)
    teacher, student = models.build("segmenter/resnet8", SHAPE, 3, width=8), build(name)
    before = [np.array(weight) for weight in student.trainable_weights]
    _, history = fit(student, teacher)
    assert np.isfinite(history["loss"]).all()
    moved = [np.abs(weight - value).max() > 0 for weight, value in zip(student.trainable_weights, before, strict=True)]
    assert np.mean(moved) > 0.9


def test_other_names_and_arguments_raise():
    with pytest.raises(ValueError, match="Did you mean .*SegFormerImageSegmenter"):
        models.build("hub/SegFormerImageSegmentor", SHAPE, 3)
    with pytest.raises(TypeError, match="arguments of MiTBackbone: layerwise_depths"):
        models.build("hub/SegFormerImageSegmenter", SHAPE, 3, encoder={"depths": [1]}, projection_filters=8)
    with pytest.raises(TypeError, match="arguments of SegFormerBackbone"):
        models.build("hub/SegFormerImageSegmenter", SHAPE, 3, encoder=MIT)
