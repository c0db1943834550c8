"""Masks on images for the report: the truth, what each network predicts, and where a student differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kd_keras.contracts import IGNORED
from kd_keras.errors import explain_mismatch
from kd_keras.report.sections.base import Card, Plot, Section
from kd_keras.report.svg import PIXELATED, axes, thumbnail, to_svg

# Colors of pixels in the map of differences, and what they mean.
DIFFERENCES = {
    "both are correct": (232, 232, 232),
    "only the teacher is correct": (213, 94, 0),
    "only {student} is correct": (0, 114, 178),
    "both are wrong": (86, 86, 86),
    "no class": (255, 255, 255),
}
LARGEST = 240  # pixels of the longer side of an image on the page
KEY_COLUMNS = 3


def class_colors(classes: int) -> np.ndarray:
    """A color for each class, `(K, 3)` uint8, any two of the first 20 easy to tell apart; the palette of VOC.

    >>> class_colors(3).tolist()
    [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    numbers, colors = np.arange(1, classes + 1), np.zeros((classes, 3), "uint8")
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype("uint8")
    return colors


def color_mask(image: np.ndarray, mask: np.ndarray, classes: int, strength: float = 0.65) -> np.ndarray:
    """A gray image under the colors of its classes; pixels of no class keep the gray of the image.

    Args:
        image: `(H, W, 1)` or `(H, W, 3)` uint8.
        mask: `(H, W)` integers, 0 to K - 1 or `IGNORED`.
        classes: K.
        strength: of the colors, from 0 to 1.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ValueError: if the mask has another size than the image.

    >>> color_mask(np.full((1, 2, 3), 100, "uint8"), np.array([[0, -1]]), 1, strength=0.5).tolist()
    [[[114, 50, 50], [100, 100, 100]]]
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if mask.shape != image.shape[:2]:
        raise ValueError(explain_mismatch(f"a mask of the size {image.shape[:2]} of its image", str(mask.shape)))
    gray = np.repeat(image.reshape(*mask.shape, -1).mean(-1, keepdims=True), 3, axis=-1)
    colored = (1 - strength) * gray + strength * class_colors(classes)[np.maximum(mask, 0)]
    return np.where((mask == IGNORED)[..., None], gray, colored).round().astype("uint8")


def draw_key(numbers: Sequence[int], class_names: Sequence[str]) -> str:
    """The colors of some classes with their names.

    >>> "road" in draw_key([1], ["sky", "road"]), "sky" in draw_key([1], ["sky", "road"])
    (True, False)
    """
    from matplotlib.patches import Patch

    colors = class_colors(len(class_names)) / 255
    names = [class_names[number] for number in numbers]
    with axes(20 * -(-len(numbers) // KEY_COLUMNS) + 12, width=480) as ax:
        ax.axis("off")
        patches = [Patch(color=colors[number], label=name) for number, name in zip(numbers, names, strict=True)]
        ax.legend(handles=patches, ncols=KEY_COLUMNS, frameon=False, loc="upper left", borderaxespad=0)
    return to_svg(ax.figure, "mask-colors", f"The colors of the classes {', '.join(names)}")


def difference_map(truth: np.ndarray, teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Which of teacher and student is correct at each pixel, in the colors of `DIFFERENCES`: `(H, W, 3)` uint8.

    Args:
        truth: `(H, W)` integers, `IGNORED` for a pixel of no class.
        teacher: `(H, W)` integers.
        student: `(H, W)` integers.

    >>> difference_map(np.array([[0, -1]]), np.array([[0, 0]]), np.array([[1, 0]])).tolist()
    [[[213, 94, 0], [255, 255, 255]]]
    """
    colors = np.array([*DIFFERENCES.values()], "uint8")
    of_teacher, of_student = teacher == truth, student == truth
    kind = np.where(of_teacher, np.where(of_student, 0, 1), np.where(of_student, 2, 3))
    return colors[np.where(truth == IGNORED, 4, kind)]


def show_masks(
    images: np.ndarray,
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> Section:
    """Each image next to the masks of the truth and of the networks, and the difference of the first and the last one.

    Args:
        images: `(N, H, W, C)` uint8.
        truth: `(N, H, W)` integers, `IGNORED` for a pixel of no class.
        predictions: the class maps `(N, H, W)` by the label of the network: the teacher first, the student last.
        class_names: K names.

    Raises:
        ValueError: if there is no teacher and student, or a class map has another size.

    >>> maps = np.zeros((1, 2, 2), int)
    >>> section = show_masks(np.zeros((1, 2, 2, 3), "uint8"), maps, {"teacher": maps, "student": maps}, ["sky"])
    >>> [name for _, name in section.cards[0].images]
    ['image', 'truth', 'teacher', 'student', 'difference']
    """
    if len(predictions) < 2 or any(maps.shape != truth.shape for maps in predictions.values()):
        expected = f"class maps {truth.shape} of a teacher and a student"
        raise ValueError(explain_mismatch(expected, str({name: maps.shape for name, maps in predictions.items()})))
    classes, student = len(class_names), list(predictions)[-1]
    teacher_maps, student_maps = (list(predictions.values())[index] for index in (0, -1))
    cards = []
    for n, image in enumerate(images):
        parts = {"image": image, "truth": color_mask(image, truth[n], classes)}
        parts |= {name: color_mask(image, maps[n], classes) for name, maps in predictions.items()}
        parts["difference"] = difference_map(truth[n], teacher_maps[n], student_maps[n])
        valid = truth[n] != IGNORED
        shares = [
            (name, f"{100 * (maps[n] == truth[n])[valid].mean():.1f} % of the pixels" if valid.any() else "no class")
            for name, maps in predictions.items()
        ]
        present = ", ".join(class_names[k] for k in np.unique(truth[n][valid]))
        pictures = [(thumbnail(part, LARGEST), name) for name, part in parts.items()]
        alt = f"An image of {present}, the masks of the truth and of each network, and the difference"
        cards.append(Card(pictures, alt, shares, max(image.shape[:2]) <= PIXELATED))
    shown = np.unique(np.stack([truth, *predictions.values()]))
    plots = [Plot(draw_key(shown[shown != IGNORED].tolist(), class_names), "The colors of the classes.")]
    kinds = (f"{color_name} where {text}" for color_name, text in _legend(student))
    intro = f"Classes in color on the gray image; in the difference, {', '.join(kinds)}."
    return Section(plots, cards=cards, intro=intro, large=True)


def _legend(student: str) -> list[tuple[str, str]]:
    names = ("light gray", "orange", "blue", "dark gray", "white")
    texts = [text.format(student=student) for text in DIFFERENCES]
    return list(zip(names, [*texts[:-1], "there is no class"], strict=True))


def choose_examples(confusion: np.ndarray, reference: np.ndarray, count: int = 6) -> list[int]:
    """The numbers of the images to show, evenly spread from the largest loss of pixel accuracy to the largest gain.

    Args:
        confusion: `(N, K, K)` of the student, as `PixelCounts` has them.
        reference: those of the teacher.
        count: of images, at most N.

    >>> worse, same = [[0, 1], [0, 1]], [[1, 0], [0, 1]]
    >>> choose_examples(np.array([same, worse, same]), np.array([same] * 3), 1)
    [1]
    """
    shares = [
        np.trace(matrices, axis1=1, axis2=2) / np.maximum(matrices.sum((1, 2)), 1)
        for matrices in (confusion, reference)
    ]
    order = np.argsort(shares[0] - shares[1], kind="stable")
    count = min(count, len(order))
    indices = np.linspace(0, len(order) - 1, count).round().astype(int) if count > 1 else np.array([0])
    return [int(order[index]) for index in indices]
