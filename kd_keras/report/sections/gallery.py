"""The report's parts that show images: where the networks looked, and on what student and teacher differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kd_keras.report.sections.base import Card, Network, Section, decimal, missing, percent
from kd_keras.report.svg import COARSE, overlay, thumbnail


class Attention(NamedTuple):
    """Where networks look.

    Attributes:
        image: `(H, W)` or `(H, W, C)` uint8.
        label: its class, or `None`.
        maps: by a subject's name how much each pixel counts for it, `(H, W)` from 0 to 1.
    """

    image: np.ndarray
    label: int | None
    maps: Mapping[str, np.ndarray]


class Disagreement(NamedTuple):
    """An image uint8, its class or `None`, and what teacher and student said of it: a class and its probability."""

    image: np.ndarray
    label: int | None
    teacher: tuple[int, float]
    student: tuple[int, float]


def looked_at(
    networks: Mapping[str, Network], classes: Sequence[str], examples: Sequence[Attention]
) -> Section | None:
    """Each image beside the maps of those networks (by subject's name) that have one."""
    if not examples:
        return None
    cards = []
    for each in examples:
        label = "an image" if each.label is None else classes[each.label]
        images = [(thumbnail(each.image), "image")]
        for name, network in networks.items():
            if name in each.maps:
                images.append((thumbnail(overlay(each.image, each.maps[name])), network.label))
        cards.append(Card(images, f"{label}, and where each network looked", [("", label)], _coarse(each.image)))
    judged = list(networks.values())[-1]
    found = [judged.findings.get(name) for name in ("attention_correlation", "attention_overlap")]
    says = "Grad-CAM: what speaks in each network for the class that the teacher chose; yellow counts most."
    if not any(map(missing, found)):
        says += f" Over all images looked at, the ranks of {judged.called} and of the teacher correlate by"
        says += f" {decimal(found[0], 2)} (1 is the same), and their most important fifths overlap by"
        says += f" {percent(found[1], 0)}."
    return Section(cards=cards, says=says)


def different(
    networks: Mapping[str, Network], classes: Sequence[str], examples: Sequence[Disagreement]
) -> Section | None:
    """The images on which the judged network and the teacher differ, and what each said."""
    if not examples:
        return None
    judged = list(networks.values())[-1]
    cards = []
    for each in examples:
        lines = [] if each.label is None else [("true", classes[each.label])]
        for name, (said, probability) in (("teacher", each.teacher), (judged.label, each.student)):
            right = "" if each.label is None else "✓\u00a0" if said == each.label else "✗\u00a0"
            lines.append((name, f"{right}{classes[said]} {percent(probability, 0)}"))
        alt = "; ".join(f"{who}: {what}" for who, what in lines)
        cards.append(Card([(thumbnail(each.image), "")], alt, lines, _coarse(each.image)))
    says = f"Images on which {judged.called} and the teacher differ, the most certain first; ✓ is right, ✗ wrong."
    shares = [judged.findings.get(name) for name in ("only_teacher_right", "only_student_right")]
    if not any(map(missing, shares)):
        says += f" Of all test images only the teacher is right on {percent(shares[0])}, only {judged.called} on"
        says += f" {percent(shares[1])}: look whether the first is much the larger."
    return Section(cards=cards, says=says)


def _coarse(image: np.ndarray) -> bool:
    return max(image.shape[:2]) <= COARSE
