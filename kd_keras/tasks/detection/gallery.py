"""The sections of the report that show images: the boxes of all networks, and objects that only the teacher finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from kd_keras.contracts import as_batch
from kd_keras.evaluation.box_matches import Matches, match_detections
from kd_keras.report.sections import Network, Section
from kd_keras.report.sections.base import Card, Table, is_missing, percent
from kd_keras.report.svg import thumbnail
from kd_keras.tasks.detection.drawing import COLOR_NAMES, LONGER_SIDE, DrawnBox, draw_on_image
from kd_keras.tasks.detection.evaluation import find_misses, score_threshold
from kd_keras.tasks.detection.misses import Miss
from kd_keras.tasks.detection.predictions import BoxPredictions

IMAGES = 6
MISSES = 8
MAX_CLASSES = 20


def show_boxes(
    networks: Mapping[str, Network],
    predictions: Mapping[str, BoxPredictions],
    images: tf.data.Dataset,
    classes: Sequence[str],
) -> Section | None:
    """Evenly spread images with the objects and with the boxes of each network.

    Args:
        networks: by the name of the subject.
        predictions: by the same names.
        images: batches of the test images in the order of the predictions.
        classes: the names of the classes.
    """
    first = next(iter(predictions.values()))
    count = len(first.detections.count)
    indices = np.unique(np.linspace(0, count - 1, IMAGES).astype(int))
    panels: dict[int, list[tuple[str, list[DrawnBox]]]] = {index: [] for index in indices}
    for name, network in networks.items():
        model = predictions[name]
        threshold, matches = score_threshold(model), None
        if model.labels is not None:
            matches = match_detections(model.labels, model.detections, model.size, model.classes)
        for index in indices:
            boxes, text = _detected(model, matches, index, threshold)
            panels[index].append((f"{network.label}: {text}", boxes))
    cards = []
    for index, image in _images_at(images, indices):
        truth = [] if first.labels is None else [(f"{len(_truth(first, index))} objects", _truth(first, index))]
        drawings = [(_uri(image, boxes), text) for text, boxes in [*truth, *panels[index]]]
        cards.append(Card(drawings, f"test image {index}", ()))
    colors = ", ".join(f"{name} {COLOR_NAMES[number % len(COLOR_NAMES)]}" for number, name in enumerate(classes[:7]))
    intro = "The images show the objects and the detections of each network whose score reaches its best threshold. A"
    intro += " solid box finds an object at the IoU threshold 0.5, a dashed box does not. Colors of the first classes,"
    intro += f" which later ones reuse: {colors}."
    return Section(cards=cards, intro=intro, large=True)


def show_misses(
    networks: Mapping[str, Network],
    predictions: Mapping[str, BoxPredictions],
    images: tf.data.Dataset,
    classes: Sequence[str],
) -> Section | None:
    """The objects that the teacher finds and the judged network does not, with tables by class and size.

    Arguments as for `show_boxes`; the teacher is the first and the judged network the last one.
    """
    names = list(networks)
    teacher, student = predictions[names[0]], predictions[names[-1]]
    judged = networks[names[-1]]
    if len(names) < 2 or is_missing(judged.findings.get("only_teacher_finds")) or student.labels is None:
        return None
    chosen: dict[int, Miss] = {}
    for miss in find_misses(student, teacher):  # at most one of an image
        if miss.image not in chosen and len(chosen) < MISSES:
            chosen[miss.image] = miss
    cards: dict[int, Card] = {}
    for index, image in _images_at(images, np.array(sorted(chosen), int)):
        miss = chosen[index]
        label = int(student.labels["classes"][index, miss.row])
        boxes = [DrawnBox(student.labels["boxes"][index, miss.row], label, is_wide=True)]
        boxes += _detected(student, None, index, score_threshold(student), is_dashed=True)[0]
        score = f"{miss.student_score:.2f}" if miss.student_score else "nothing"
        lines = [("missed", classes[label]), ("teacher", f"{miss.teacher_score:.2f}"), (judged.label, score)]
        alt = f"an object of the class {classes[label]} that {judged.phrase} misses"
        cards[index] = Card([(_uri(image, boxes), "")], alt, lines)
    finds = {who: percent(judged.findings[f"only_{who}_finds"]) for who in ("teacher", "student")}
    intro = f"Only the teacher finds {finds['teacher']} of the objects, and only {judged.phrase} {finds['student']}. A"
    intro += " detection counts if its score reaches the best threshold of its network. Wide boxes are objects that"
    intro += " only the teacher finds, those of its highest scores, at most one per image. Dashed boxes are the"
    intro += f" detections of {judged.phrase}."
    return Section(
        tables=list(_tables(judged, classes)), cards=[cards[index] for index in chosen], intro=intro, large=True
    )


def _tables(judged: Network, classes: Sequence[str]) -> Iterator[Table]:
    for kind, names, title in (
        ("class", classes, "By class, the fractions of objects that one network alone finds"),
        ("size", ("small", "medium", "large"), "By size"),
    ):
        values = [judged.findings[f"only_{who}_finds_by_{kind}"] for who in ("teacher", "student")]
        order = np.flatnonzero(~np.isnan(values[0]))
        if kind == "class":
            order = order[np.argsort(-values[0][order], kind="stable")][:MAX_CLASSES]
        rows = [[names[k], percent(values[0][k]), percent(values[1][k])] for k in order.tolist()]
        yield Table(title, ["", "teacher alone", f"{judged.label} alone"], rows)


def _truth(model: BoxPredictions, index: int) -> list[DrawnBox]:
    if model.labels is None:
        return []
    rows = zip(model.labels["boxes"][index], model.labels["classes"][index], strict=True)
    return [DrawnBox(box, int(label)) for box, label in rows if label >= 0]


def _detected(
    model: BoxPredictions, matches: Matches | None, index: int, threshold: float, is_dashed: bool = False
) -> tuple[list[DrawnBox], str]:
    """The detections in an image as boxes, dashed if they find no object, and a text that counts them."""
    labels = model.as_labels(threshold)
    correct = set()
    if matches is not None:
        inside = (matches.images == index) & (matches.finds >= 0)
        correct = set(matches.rows[inside].tolist())
    boxes = [
        DrawnBox(labels["boxes"][index, row], int(label), is_dashed or (matches is not None and row not in correct))
        for row, label in enumerate(labels["classes"][index])
        if label >= 0
    ]
    if matches is None:
        return boxes, f"{len(boxes)} boxes"
    hits = sum(not box.is_dashed for box in boxes)
    objects = int((matches.object_images == index).sum())
    return boxes, f"finds {hits} of {objects}, {len(boxes) - hits} wrong"


def _uri(image: np.ndarray, boxes: Sequence[DrawnBox]) -> str:
    return thumbnail(draw_on_image(image, boxes), LONGER_SIDE)


def _images_at(images: tf.data.Dataset, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The test images at these indices, in order, uint8."""
    start = 0
    for element in images:
        batch = as_batch(element).inputs.numpy()
        for index in indices:
            if start <= index < start + len(batch):
                yield int(index), np.clip(np.round(batch[index - start]), 0, 255).astype("uint8")
        start += len(batch)
