"""Image encoders of KerasHub without a classifier, such as DINOv2, DINOv3, CLIP and SigLIP: teachers of features."""

from __future__ import annotations

from typing import Any

import keras

from kd_keras.errors import explain_mismatch


def find_classifier(models: Any, backbone: type) -> type | None:
    """The class of image classifiers on a class of backbones; `None` for an encoder that has none, such as DINOv2.

    Args:
        models: the module `keras_hub.models`.
        backbone: a class of that module.
    """
    kinds = [getattr(models, name) for name in dir(models) if name.endswith("ImageClassifier")]
    kinds = [kind for kind in kinds if kind is not models.ImageClassifier and kind.backbone_cls is not None]
    return next((kind for kind in kinds if issubclass(backbone, kind.backbone_cls)), None)


def image_encoder(models: Any, name: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """The image encoder of a preset, which reads normalized images; of CLIP and SigLIP the part for images.

    DINOv2 and DINOv3, whose positions fit any square, are built for the longer side of `input_shape`, and any other
    encoder for the size of the preset. A `Teacher` resizes its images to that.

    Args:
        models: the module `keras_hub.models`.
        name: of the preset, or its folder.
        input_shape: `(H, W, C)` of an image.

    Raises:
        ValueError: if the preset does not encode images.
    """
    backbone = models.Backbone.from_preset(name, load_weights=False)
    shape = {}
    if isinstance(backbone, (models.DINOV2Backbone, models.DINOV3Backbone)):
        shape = {"image_shape": (max(input_shape[:2]), max(input_shape[:2]), input_shape[-1])}
    backbone = models.Backbone.from_preset(name, **shape)
    encoder = getattr(backbone, "vision_encoder", backbone)
    if [len(tensor.shape) for tensor in keras.tree.flatten(encoder.input)] != [4]:
        received = f"{name!r} ({type(backbone).__name__})"
        advice = "name the preset of an image encoder, such as dinov2_small"
        raise ValueError(explain_mismatch("a preset that encodes images", received, advice))
    return encoder
