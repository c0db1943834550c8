"""KerasHub's RetinaNet as a detector: its predictions and boxes, the start and the loss of the paper, distillation."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kd_keras import models
from kd_keras.detection.boxes import iou
from kd_keras.distiller import Distiller
from kd_keras.methods import BCKD, PKD
from kd_keras.models.retinanet_head import RetinaNet
from tests.support.shapes import colored_rectangles

hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
SHAPE = (64, 96, 3)
PIXELS = np.random.default_rng(0).uniform(0, 255, size=(2, *SHAPE)).astype("float32")


def stock(ratios=(0.5, 1.0, 2.0), **options):
    """A small RetinaNet of three classes as KerasHub builds it."""
    encoder = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 16, 16, 16],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    backbone = hub.models.RetinaNetBackbone(image_encoder=encoder, min_level=3, max_level=4, use_p5=False)
    anchors = {"bounding_box_format": "xyxy", "min_level": 3, "max_level": 4, "num_scales": 3, "anchor_size": 2}
    generator = hub.layers.AnchorGenerator(**anchors, aspect_ratios=list(ratios))
    options = {"pre_logits_num_conv_layers": 1, "bounding_box_format": "xyxy", **options}
    return hub.models.RetinaNetObjectDetector(backbone=backbone, num_classes=3, anchor_generator=generator, **options)


def trained(network):
    """The network with random weights in its heads, as if it were trained."""
    for head in (network.classification_head, network.box_head):
        head.set_weights([np.random.default_rng(1).normal(scale=0.05, size=x.shape) for x in head.get_weights()])
    return network


@pytest.mark.parametrize("norm", [False, True], ids=["no norm", "group norm"])
def test_a_trained_network_predicts_what_it_predicts_in_kerashub(norm):
    network = trained(stock(use_prediction_head_norm=norm))
    expected = network(PIXELS / 255)
    anchors = ops.concatenate(list(network.anchor_generator(PIXELS).values()), axis=0)
    boxes = keras.utils.bounding_boxes.decode_deltas_to_boxes(
        anchors, expected["bbox_regression"], "xyxy", "xyxy", encoded_format="center_xywh", image_shape=SHAPE
    )
    detector = models.hub_detector(network, SHAPE)
    outputs = detector(PIXELS)
    assert isinstance(detector, RetinaNet)
    np.testing.assert_allclose(outputs["class_logits"], expected["cls_logits"], atol=1e-5)
    np.testing.assert_allclose(detector.boxes(outputs), boxes, rtol=1e-5, atol=1e-3)


def test_a_network_without_training_starts_as_in_the_paper():
    detector = models.hub_detector(stock(), SHAPE)
    scores = ops.sigmoid(detector(PIXELS)["class_logits"])
    np.testing.assert_allclose(np.mean(scores), 0.01, rtol=0.02)
    assert 0.005 < np.min(scores) and np.max(scores) < 0.02
    assert np.abs(detector(PIXELS)["box_deltas"]).mean() < 0.05  # KerasHub starts them with the bias -4.6
    assert math.isclose(np.std(detector.get_layer("box_conv1").kernel), 0.01, rel_tol=0.05)


def test_it_is_saved_and_loaded(tmp_path):
    detector = models.hub_detector(trained(stock()), SHAPE)
    detector.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(loaded(PIXELS)["class_logits"], detector(PIXELS)["class_logits"])
    np.testing.assert_array_equal(loaded.anchors, detector.anchors)


def test_a_preset_is_built_by_name(tmp_path):
    network = trained(stock())
    network.save_to_preset(str(tmp_path / "preset"))
    detector = models.build(f"hub/{tmp_path / 'preset'}", SHAPE, 3)
    np.testing.assert_allclose(detector(PIXELS)["class_logits"], network(PIXELS / 255)["cls_logits"], atol=1e-5)
    with pytest.raises(ValueError, match="Did you mean retinanet_resnet50_fpn_coco"):
        models.build("hub/retinanet_resnet50_coco", SHAPE, 3)


def test_networks_with_other_anchors_are_refused():
    with pytest.raises(ValueError, match="divisible by 16, the largest stride .* 60 x 96"):
        models.hub_detector(stock(), (60, 96, 3))
    with pytest.raises(ValueError, match=r"nine anchors .* aspect_ratios=\[1.0\]"):
        models.hub_detector(stock(ratios=(1.0,)), SHAPE)
    with pytest.raises(TypeError, match="a RetinaNetObjectDetector of KerasHub.*resnet8"):
        models.hub_detector(models.build("resnet8", (8, 8, 3), 3), SHAPE)


def student(**options):
    options = {"pyramid": (3, 4), "width": 16, "depth": 1, "anchor_scale": 2, **options}
    return models.build("detector/mobilenet_v1", SHAPE, 3, backbone={"width": 0.25}, **options)


def test_it_teaches_a_student_with_its_anchors():
    images, label = colored_rectangles(2, size=96, sides=(16, 32))
    batch = images[:, :64], {**label, "boxes": label["boxes"] * [1.5, 1, 1.5, 1]}
    teacher = models.hub_detector(trained(stock()), SHAPE)
    with pytest.raises(ValueError, match="offsets from the same anchors .* anchors='whole'"):
        Distiller(student=student(), teacher=teacher, methods=[BCKD()]).compile("sgd")
    taps = {"student_tap": "pyramid_p*", "teacher_tap": "pyramid_p*"}
    distiller = Distiller(student=student(anchors="whole"), teacher=teacher, methods=[BCKD(), PKD(**taps)])
    distiller.compile("sgd")
    logs = distiller.train_on_batch(*batch, return_dict=True)
    assert np.isfinite(logs["loss"]) and logs["bckd"] > 0 and logs["pkd"] > 0


@pytest.mark.slow
def test_it_learns_eight_images():
    images, label = colored_rectangles(8, size=96, sides=(16, 32))
    keras.utils.set_random_seed(0)
    detector = models.hub_detector(stock(), (96, 96, 3))
    detector.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 120), clipnorm=1.0))
    detector.fit(images.astype("float32"), label, batch_size=8, epochs=120, verbose=0, shuffle=False)
    found = detector.detect(images.astype("float32"), score_threshold=0.3)
    for boxes, classes, expected, kinds in zip(
        found.boxes, found.classes, label["boxes"], label["classes"], strict=True
    ):
        expected = expected[kinds >= 0][:, [1, 0, 3, 2]] * 96
        overlaps = np.asarray(iou(np.asarray(boxes)[:, None], expected[None]))
        assert (overlaps.max(0) > 0.5).all()
        assert (np.asarray(classes)[overlaps.argmax(0)] == kinds[kinds >= 0]).all()
