"""Examples that two sources share, such as test images that a network has trained on."""

from __future__ import annotations

import logging
from collections import defaultdict

from kd_keras.data.base import Source

LOGGER = logging.getLogger("kd_keras")


def count_shared(source: Source, other: Source) -> int:
    """The number of examples that two sources share; 0 if one of them does not know where its examples are.

    >>> from kd_keras.data import load
    >>> count_shared(load("digits", "train[:100]"), load("digits", "train[60:]"))
    40
    """
    by_name: dict[str, list[tuple[int, int]]] = defaultdict(list)  # there may be as many names as examples
    for name, begin, end in other.ranges:
        by_name[name].append((begin, end))
    return sum(
        max(0, min(end, last) - max(begin, first))
        for name, begin, end in source.ranges
        for first, last in by_name.get(name, ())
    )


def warn_of_shared(train: Source, test: Source, name: str = "training images") -> None:
    """Logs a warning if test images are in `train`; `name` describes `train` in the warning."""
    if shared := count_shared(train, test):
        LOGGER.warning(
            "%s of the %s test images are %s, so that the test overestimates the accuracy on new images. Choose "
            "splits without common images.", f"{shared:,}", f"{test.size:,}", name,
        )  # fmt: skip
