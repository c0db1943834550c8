"""The sections of the report about faces: what they show is what was measured."""

import re

import numpy as np
import pytest

from kd_keras.data import all_pairs
from kd_keras.report.sections.base import Network
from kd_keras.tasks.faces.embeddings import pair_similarities
from kd_keras.tasks.faces.evaluation import intervals, verification
from kd_keras.tasks.faces.report import show_hardest_pairs, show_similarities, show_verification

LABELS = np.repeat(np.arange(6), 4)
PAIRS = all_pairs(LABELS)
IMAGES = np.arange(24, dtype="uint8")[:, None, None, None] * np.ones((1, 8, 6, 1), "uint8")


def vectors(seed):
    x = np.eye(6)[LABELS] + 0.4 * np.random.default_rng(seed).normal(size=(24, 6))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def networks():
    result = []
    for style, label in enumerate(("teacher", "distilled")):
        x = vectors(style)
        findings = {**dict(verification(x, PAIRS)), **dict(intervals(x, LABELS, PAIRS, resamples=20))}
        result.append((Network(label, f"the {label}", style, findings, {}), x))
    return result


def test_the_table_has_the_findings_with_their_intervals(networks):
    section = show_verification(networks, PAIRS)
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert "TAR at FAR 0.01" in rows and "TAR at FAR 0.001" not in rows  # of 240 impostor pairs
    for (network, _), cell in zip(networks, rows["TAR at FAR 0.1"], strict=True):
        names = ("tar_at_far_0.1", "tar_at_far_0.1_low", "tar_at_far_0.1_high")
        numbers = [float(text) for text in re.findall(r"[\d.]+", cell)]
        assert numbers == pytest.approx([100 * network.findings[name] for name in names], abs=0.051)
    assert rows["rank-1 identification"] == ("–", "–")  # was not measured
    assert "240 impostor pairs" in section.plots[0].caption


def test_every_network_is_named_in_the_figures(networks):
    svg = show_verification(networks, PAIRS).plots[0].svg
    assert ">0.01<" in svg and ">0.1<" in svg and "mathdefault" not in svg
    plots = show_similarities(networks, PAIRS).plots
    for place, (network, _) in enumerate(networks):
        assert f">{network.label}<" in svg and f"var(--series-{place})" in svg
        assert f">{network.label}<" in plots[place].svg and "impostor" in plots[place].svg


def test_the_hardest_pairs_are_those_that_are_furthest_on_the_wrong_side(networks):
    teacher, student = networks
    section = show_hardest_pairs(student, teacher, IMAGES, PAIRS, count=2)
    similarities = [pair_similarities(x, PAIRS) for _, x in (student, teacher)]
    genuine = np.sort(similarities[0][PAIRS.same])[:2]
    impostor = np.sort(similarities[0][~PAIRS.same])[::-1][:2]
    shown = [[text for _, text in card.lines] for card in section.cards]
    assert [row[0] for row in shown] == ["one person"] * 2 + ["two persons"] * 2
    assert [float(row[1]) for row in shown] == pytest.approx([*genuine, *impostor], abs=0.0051)
    place = int(np.flatnonzero(similarities[0] == impostor[0])[0])
    assert float(shown[2][2]) == pytest.approx(similarities[1][place], abs=0.0051)
    assert all(len(card.images) == 2 and card.pixelated for card in section.cards)
