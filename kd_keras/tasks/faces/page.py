"""Writes the page about networks of faces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from kd_keras.data import Pairs
from kd_keras.evaluation.verdict import Requirement
from kd_keras.files import write_text
from kd_keras.report.page import Subject, name_networks, render_page
from kd_keras.report.sections import Metric, show_training
from kd_keras.tasks.faces.report import show_hardest_pairs, show_similarities, show_verification

VERIFICATION = Metric("verification_accuracy", "verification accuracy", {"rank1": "Rank-1 identification"})


def write_face_report(
    path: str | os.PathLike,
    subjects: Sequence[Subject],
    requirements: Sequence[Requirement] = (),
    *,
    embeddings: Mapping[str, np.ndarray],
    pairs: Pairs,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    data: str = "",
    command: str = "",
) -> None:
    """Writes one HTML page that says whether a network of faces may replace its teacher, and why.

    Args:
        path: the path of the HTML file.
        subjects: the networks with their findings: the teacher first, the judged one last.
        requirements: the requirements on the judged network.
        embeddings: by the name of each subject, its unit embeddings `(N, D)`.
        pairs: of the test images.
        images: `(N, H, W, C)` uint8, the test images.
        labels: `(N,)`, their identities.
        class_names: the names of the identities; numbers by default.
        data: a sentence about the test images.
        command: the command that repeats the page.

    Raises:
        ValueError: as `render_page`.
        ImportError: if Jinja2, matplotlib or Pillow is not installed.
    """
    named = name_networks(subjects)
    shown = [(network, embeddings[name]) for name, network in named.items()]
    judged, first = subjects[-1].name, subjects[0].name
    people = {
        number: f"person {label if class_names is None else class_names[label]}" for number, label in enumerate(labels)
    }
    hardest = show_hardest_pairs(shown[-1], shown[0] if judged != first else None, images, pairs, people)
    sections = {
        "verification": ("Verification", show_verification(shown, pairs)),
        "similarities": ("Similarities", show_similarities(shown, pairs)),
        "pairs": ("Hardest pairs", hardest),
        "training": ("Training curves", show_training(list(named.values()), (), VERIFICATION)),
    }
    title = f"May {judged} replace {first}?" if judged != first else judged
    html = render_page(
        subjects, requirements, title=title, data=data, command=command, metric=VERIFICATION, sections=sections
    )
    write_text(path, html)
