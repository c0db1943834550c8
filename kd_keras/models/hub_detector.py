"""KerasHub's RetinaNet as a detector of kd_keras: its weights, with the loss and the start of the paper."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.detection.losses import PRIOR
from kd_keras.errors import explain_mismatch
from kd_keras.models.retinanet_head import ANCHOR_SCALE, AnchorDeltas, RetinaNet
from kd_keras.networks.preprocessing import PixelMap


def hub_detector(
    network: keras.Model, input_shape: tuple[int, int, int], pixel_map: PixelMap | None = None
) -> RetinaNet:
    """A RetinaNet of KerasHub as a detector that every function of kd_keras trains, distills, evaluates and exports.

    It has the backbone and copies of the heads of `network`; its maps are the taps "pyramid_p3", .... Its loss is that
    of Lin et al. 2017, *Focal Loss for Dense Object Detection*, 1708.02002, with smooth L1 for boxes. Heads that are
    not trained start as in the paper: with small weights, and a probability of 0.01 for every class. KerasHub has
    another loss and other initial weights, and gives the bias of that probability to the box head.

    Args:
        network: a `keras_hub.models.RetinaNetObjectDetector` of K classes; do not use it afterwards.
        input_shape: `(H, W, C)` of an image, H and W divisible by the largest stride of the pyramid.
        pixel_map: what the network expects of pixel values from 0 to 255; division by 255 if left out.

    Raises:
        TypeError: if `network` is no RetinaNet of KerasHub. D-FINE has no anchors and is not supported.
        ValueError: if the size is not divisible, or the anchors are not nine at each position.
    """
    if not hasattr(network, "anchor_generator") or not hasattr(network, "classification_head"):
        expected = "a RetinaNetObjectDetector of KerasHub"
        raise TypeError(explain_mismatch(expected, f"{network.name!r} of the type {type(network).__name__}"))
    image = keras.Input(input_shape, name="image")
    channels = input_shape[-1]
    pixel_map = pixel_map or PixelMap(tuple(range(channels)), (1 / 255,) * channels, (0.0,) * channels)
    maps = network.backbone(pixel_map.apply(image))
    levels = {int(level[1:]): x for level, x in maps.items()}
    deltas = _anchors(network, input_shape, {level: tuple(x.shape[1:3]) for level, x in levels.items()})
    _start_as_published(network)
    maps = {level: layers.Identity(name=f"pyramid_p{level}")(x) for level, x in levels.items()}
    class_rows, box_rows = [], []
    for level, x in _predict(network.classification_head, maps, "class").items():
        class_rows.append(layers.Reshape((-1, network.num_classes), name=f"class_logits_p{level}")(x))
    for level, x in _predict(network.box_head, maps, "box").items():
        box_rows.append(layers.Reshape((-1, 4), name=f"box_deltas_p{level}")(x))
    logits = layers.Concatenate(axis=1, dtype="float32", name="class_logits")(class_rows)
    outputs = {"class_logits": logits, "box_deltas": deltas(box_rows)}
    return RetinaNet(inputs=image, outputs=outputs, name=network.name)


def _predict(head: layers.Layer, maps: dict[int, Tensor], name: str) -> dict[int, Tensor]:
    """What a head predicts from the map of each level, by copies of its layers, which Keras can save."""
    maps = dict(maps)
    norms = head.group_norm_layers or [None] * len(head.conv_layers)
    for number, (convolution, norm) in enumerate(zip(head.conv_layers, norms, strict=True), 1):
        maps = _apply(convolution, f"{name}_conv{number}", maps)
        maps = maps if norm is None else _apply(norm, f"{name}_norm{number}", maps)
        maps = {level: layers.ReLU(name=f"{name}_conv{number}_p{level}")(x) for level, x in maps.items()}
    return _apply(head.prediction_layer, f"{name}_predictions", maps)


def _apply(layer: layers.Layer, name: str, maps: dict[int, Tensor]) -> dict[int, Tensor]:
    """The outputs of a copy of the layer, of another name, for the map of each level."""
    copy = type(layer).from_config({**layer.get_config(), "name": name})
    results = {level: copy(x) for level, x in maps.items()}
    copy.set_weights(layer.get_weights())
    return results


def _anchors(
    network: keras.Model, input_shape: tuple[int, int, int], map_sizes: dict[int, tuple[int, int]]
) -> AnchorDeltas:
    """The layer of the network's anchors; raises `ValueError` if they are not those of `detection.anchors`."""
    generator, largest = network.anchor_generator, 2 ** max(map_sizes)
    if any(side % largest for side in input_shape[:2]):
        expected = f"a height and a width divisible by {largest}, the largest stride of {network.name!r}"
        raise ValueError(explain_mismatch(expected, f"images of {input_shape[0]} x {input_shape[1]}"))
    scale = float(generator.anchor_size or ANCHOR_SCALE)
    strides = [2**level for level in map_sizes]
    deltas = AnchorDeltas(list(map_sizes.values()), strides, scale, "smooth_l1", whole=True, name="box_deltas")
    boxes = ops.concatenate(list(generator(ops.zeros((1, *input_shape))).values()), axis=0)
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, source=generator.bounding_box_format, target="xyxy", height=input_shape[0], width=input_shape[1]
    )
    boxes = np.asarray(boxes)
    if boxes.shape != deltas.anchors.shape or np.abs(boxes - deltas.anchors).max() > 1e-3:
        expected = f"nine anchors at each position of {network.name!r}, of three areas and the ratios 0.5, 1 and 2"
        received = f"num_scales={generator.num_scales} and aspect_ratios={generator.aspect_ratios}"
        raise ValueError(explain_mismatch(expected, received))
    return deltas


def _start_as_published(network: keras.Model) -> None:
    """Sets the initial weights of heads that are not trained: their class bias is exactly 0, as KerasHub makes it."""
    of_classes = network.classification_head.prediction_layer
    if np.any(of_classes.bias):
        return
    of_classes.bias.assign(ops.full_like(of_classes.bias, -math.log((1 - PRIOR) / PRIOR)))
    network.box_head.prediction_layer.bias.assign(ops.zeros_like(network.box_head.prediction_layer.bias))
    for number, head in enumerate((network.classification_head, network.box_head)):
        for index, layer in enumerate((*head.conv_layers, head.prediction_layer)):
            small = keras.initializers.RandomNormal(stddev=0.01, seed=keras.random.SeedGenerator(100 * number + index))
            layer.kernel.assign(small(layer.kernel.shape))
