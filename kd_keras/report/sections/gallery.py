"""The sections that show images: attention maps, and images for which student and teacher predict different classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kd_keras.report.sections.base import Card, Network, Section, decimal, is_missing, percent
from kd_keras.report.svg import PIXELATED, overlay, thumbnail


class Attention(NamedTuple):
    """An image with the attention maps of several networks.

    Attributes:
        image: `(H, W)` or `(H, W, C)` uint8.
        label: its class, or `None`.
        maps: by the name of a subject, the importance of each pixel, `(H, W)` from 0 to 1.
    """

    image: np.ndarray
    label: int | None
    maps: Mapping[str, np.ndarray]


class Disagreement(NamedTuple):
    """An image uint8, its class or `None`, and the predictions of teacher and student: a class and its probability."""

    image: np.ndarray
    label: int | None
    teacher: tuple[int, float]
    student: tuple[int, float]


def show_attention(
    networks: Mapping[str, Network], classes: Sequence[str], examples: Sequence[Attention]
) -> Section | None:
    """Each image beside the maps of the networks (by the subject's name) that have one."""
    if not examples:
        return None
    cards = []
    for example in examples:
        label = "an image" if example.label is None else classes[example.label]
        images = [(thumbnail(_visible(example.image)), "image")]
        for name, network in networks.items():
            if name in example.maps:
                images.append((thumbnail(overlay(example.image, example.maps[name])), network.label))
        alt = f"{label}, and the attention map of each network"
        cards.append(Card(images, alt, [("", label)], _is_pixelated(example.image)))
    judged = list(networks.values())[-1]
    correlation, overlap = (judged.findings.get(name) for name in ("attention_correlation", "attention_overlap"))
    intro = "Grad-CAM maps: the pixels that support the class that the teacher predicts; yellow is the most important."
    if not (is_missing(correlation) or is_missing(overlap)):
        intro += f" Over all images examined, the rank correlation between the maps of {judged.phrase} and the teacher"
        intro += f" is {decimal(correlation, 2)} (1 is identical), and the overlap of their most important fifths is"
        intro += f" {percent(overlap, 0)}."
    return Section(cards=cards, intro=intro + _channels_shown(examples[0].image))


def show_disagreements(
    networks: Mapping[str, Network], classes: Sequence[str], examples: Sequence[Disagreement]
) -> Section | None:
    """The images for which the judged network and the teacher predict different classes, with both predictions."""
    if not examples:
        return None
    judged = list(networks.values())[-1]
    cards = []
    for example in examples:
        lines = [] if example.label is None else [("true", classes[example.label])]
        for name, (predicted, probability) in (("teacher", example.teacher), (judged.label, example.student)):
            mark = "" if example.label is None else "✓\u00a0" if predicted == example.label else "✗\u00a0"
            lines.append((name, f"{mark}{classes[predicted]} {percent(probability, 0)}"))
        alt = "; ".join(f"{name}: {text}" for name, text in lines)
        cards.append(Card([(thumbnail(_visible(example.image)), "")], alt, lines, _is_pixelated(example.image)))
    intro = f"Images for which {judged.phrase} and the teacher predict different classes, the most confident first;"
    intro += " ✓ is correct, ✗ is wrong."
    only_teacher, only_student = (judged.findings.get(f"only_{name}_correct") for name in ("teacher", "student"))
    if not (is_missing(only_teacher) or is_missing(only_student)):
        intro += f" Only the teacher is correct for {percent(only_teacher)} of all test images, and only"
        intro += f" {judged.phrase} for {percent(only_student)}. Check whether the first fraction is much larger."
    return Section(cards=cards, intro=intro + _channels_shown(examples[0].image))


def _visible(image: np.ndarray) -> np.ndarray:
    """The channels of an image that a picture can show: all of a gray or color image, otherwise the first ones."""
    if image.ndim == 2 or image.shape[-1] in (1, 3):
        return image
    return image[..., :3] if image.shape[-1] > 3 else image[..., :1]


def _channels_shown(image: np.ndarray) -> str:
    shown = _visible(image)
    if shown.shape == image.shape:
        return ""
    which = "three, as red, green and blue" if shown.shape[-1] == 3 else "one"
    return f" Of the {image.shape[-1]} channels of an image the picture shows the first {which}."


def _is_pixelated(image: np.ndarray) -> bool:
    return max(image.shape[:2]) <= PIXELATED
