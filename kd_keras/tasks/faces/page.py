"""What the page about networks of faces shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kd_keras.data import Pairs
from kd_keras.report.sections import Metric, Network, Section, show_training
from kd_keras.tasks.faces.report import show_hardest_pairs, show_similarities, show_verification

VERIFICATION = Metric("verification_accuracy", "verification accuracy", {"rank1": "Rank-1 identification"})


def face_sections(
    networks: Mapping[str, Network],
    embeddings: Mapping[str, np.ndarray],
    pairs: Pairs,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
) -> dict[str, tuple[str, Section | None]]:
    """The sections of the page, as `write_page` takes them.

    Args:
        networks: by name, as the page shows them: the teacher first, the judged one last.
        embeddings: by name, the unit embeddings `(N, D)`.
        pairs: of the test images.
        images: `(N, H, W, C)` uint8, the test images.
        labels: `(N,)`, their identities.
        class_names: the names of the identities; numbers by default.
    """
    shown = [(network, embeddings[name]) for name, network in networks.items()]
    people = {
        number: f"person {label if class_names is None else class_names[label]}" for number, label in enumerate(labels)
    }
    teacher = shown[0] if len(shown) > 1 else None
    return {
        "verification": ("Verification", show_verification(shown, pairs)),
        "similarities": ("Similarities", show_similarities(shown, pairs)),
        "pairs": ("Hardest pairs", show_hardest_pairs(shown[-1], teacher, images, pairs, people)),
        "training": ("Training curves", show_training(list(networks.values()), (), VERIFICATION)),
    }
