"""The sections about faces of the report page: verification, similarities, and the hardest pairs as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kd_keras.data import Pairs
from kd_keras.report.sections.base import Card, Network, Plot, Section, Table, decimal, percent
from kd_keras.report.svg import PIXELATED, thumbnail
from kd_keras.tasks.faces.embeddings import pair_similarities
from kd_keras.tasks.faces.evaluation import measurable_rates
from kd_keras.tasks.faces.figures import draw_roc, draw_similarities
from kd_keras.tasks.faces.verification import measure_roc, threshold_at_far

HARDEST = 6  # pairs of each kind


def show_verification(networks: Sequence[tuple[Network, np.ndarray]], pairs: Pairs) -> Section:
    """The ROC of each network, and a table of its findings with intervals.

    Args:
        networks: each with its unit embeddings `(N, D)`; their findings are those of `verification`, `intervals`,
            `identification` and `agreement` by name, and may lack any.
        pairs: of the test images.

    >>> vectors, first = np.repeat(np.eye(3), 2, axis=0), np.array([0, 0, 2, 4])
    >>> pairs = Pairs(first, np.array([1, 2, 3, 5]), np.array([True, False, True, True]), np.arange(4) % 2)
    >>> section = show_verification([(Network("student", "the student", 1, {"auc": 1.0}, {}), vectors)], pairs)
    >>> [row for row in section.tables[0].rows if row[0] == "AUC"]
    [('AUC', '1.000')]
    """
    impostors = int(np.count_nonzero(~pairs.same))
    curves = [(network, measure_roc(pair_similarities(x, pairs), pairs.same)) for network, x in networks]
    caption = f"{np.count_nonzero(pairs.same):,} genuine and {impostors:,} impostor pairs; a lower rate than"
    caption += f" 1/{impostors:,} cannot be measured with them."
    plot = Plot(draw_roc("roc", "True accepts over false accepts for each network", curves, impostors), caption)
    rates = measurable_rates(pairs)
    rows = [
        ("verification accuracy", "verification_accuracy", percent),
        *((f"TAR at FAR {rate:g}", f"tar_at_far_{rate:g}", percent) for rate in rates),
        ("equal error rate", "equal_error_rate", percent),
        ("AUC", "auc", decimal),
        ("rank-1 identification", "rank1", percent),
        ("rank correlation with the teacher's similarities", "similarity_spearman", decimal),
    ]
    cells = [(text, *(_with_interval(network, name, form) for network, _ in networks)) for text, name, form in rows]
    intro = "Pairs of images of people who are in no training image. TAR is the fraction of accepted genuine pairs, FAR"
    intro += " that of accepted impostor pairs. Intervals (95 %) are from drawing identities with replacement."
    table = Table("", ["", *(network.label for network, _ in networks)], cells)
    return Section([plot], [table], intro=intro)


def _with_interval(network: Network, name: str, form: Callable[[float | None], str]) -> str:
    text = form(network.findings.get(name))
    low, high = (network.findings.get(f"{name}_{end}") for end in ("low", "high"))
    interval = f"({form(low)} to {form(high)})".replace(" ", "\u00a0")  # which is not broken into two lines
    return text if low is None or high is None else f"{text} {interval}"


def show_similarities(networks: Sequence[tuple[Network, np.ndarray]], pairs: Pairs) -> Section:
    """A histogram of the similarities of genuine and impostor pairs for each network, with its thresholds.

    >>> vectors, first = np.repeat(np.eye(3), 2, axis=0), np.array([0, 0, 2, 4])
    >>> pairs = Pairs(first, np.array([1, 2, 3, 5]), np.array([True, False, True, True]), np.arange(4) % 2)
    >>> len(show_similarities([(Network("student", "the student", 1, {}, {}), vectors)], pairs).plots)
    1
    """
    plots = []
    similarities = [pair_similarities(embedding, pairs) for _, embedding in networks]
    lowest = min(-0.2, *(float(similarity.min()) for similarity in similarities))
    for index, ((network, _), similarity) in enumerate(zip(networks, similarities, strict=True)):
        roc = measure_roc(similarity, pairs.same)
        thresholds = {f"FAR {rate:g}": threshold_at_far(roc, rate) for rate in measurable_rates(pairs)[-1:]}
        alt = f"Histograms of the similarities of genuine and impostor pairs for {network.phrase}"
        svg = draw_similarities(f"similarities-{index}", alt, network, similarity, pairs.same, thresholds, lowest)
        text = ", ".join(f"{name}: {threshold:.3f}" for name, threshold in thresholds.items())
        plots.append(Plot(svg, f"{network.label}; threshold at {text}" if text else network.label))
    intro = (
        "Cosines of pairs; the less both groups overlap, the better. A pair to the right of a threshold is accepted."
    )
    return Section(plots, intro=intro)


def show_hardest_pairs(
    network: tuple[Network, np.ndarray],
    teacher: tuple[Network, np.ndarray] | None,
    images: np.ndarray,
    pairs: Pairs,
    names: Mapping[int, str] | None = None,
    count: int = HARDEST,
) -> Section:
    """The genuine pairs with the lowest and the impostor pairs with the highest similarity, as images.

    Args:
        network: the judged network with its unit embeddings.
        teacher: the teacher with its own, whose similarity is shown too, or `None`.
        images: `(N, H, W, C)` uint8, the test images.
        pairs: of these.
        names: of the images by number, or `None`.
        count: the number of pairs of each kind.

    >>> vectors, first = np.repeat(np.eye(3), 2, axis=0), np.array([0, 0, 2, 4])
    >>> pairs = Pairs(first, np.array([1, 2, 3, 5]), np.array([True, False, True, True]), np.arange(4) % 2)
    >>> student = (Network("student", "the student", 1, {}, {}), vectors)
    >>> section = show_hardest_pairs(student, None, np.zeros((6, 4, 4, 1), "uint8"), pairs, count=1)
    >>> [card.lines[0] for card in section.cards]
    [('', 'one person'), ('', 'two persons')]
    """
    similarity = pair_similarities(network[1], pairs)
    sides = [(network[0].label, similarity)]
    if teacher is not None:
        sides.append((teacher[0].label, pair_similarities(teacher[1], pairs)))
    genuine, impostor = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
    chosen = [*genuine[np.argsort(similarity[genuine], kind="stable")][:count]]
    chosen += [*impostor[np.argsort(-similarity[impostor], kind="stable")][:count]]
    cards = []
    for number in chosen:
        members = (int(pairs.first[number]), int(pairs.second[number]))
        kind = "one person" if pairs.same[number] else "two persons"
        lines = [("", kind), *((label, decimal(float(values[number]), 2)) for label, values in sides)]
        titles = [(thumbnail(images[member]), "" if names is None else names[member]) for member in members]
        alt = f"a pair of images of {kind}"
        cards.append(Card(titles, alt, lines, max(images.shape[1:3]) <= PIXELATED))
    intro = f"The pairs that {network[0].phrase} finds hardest: one person with the lowest similarity, and two persons"
    intro += " with the highest. Look for wrong labels among them."
    return Section(cards=cards, intro=intro)
