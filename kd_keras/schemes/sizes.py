"""The size and the time of candidates for a student, measured on their exports with new weights."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.errors import check_choice
from kd_keras.export import litert
from kd_keras.export.verification import Tolerance
from kd_keras.files import write_json
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.parsing import parse_call
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.students import build_network, names_model

LOGGER = logging.getLogger("kd_keras")
FORMS = {"litert": "float32", "litert_float16": "float16", "litert_int8": "int8"}
CANDIDATES = (
    "resnet8", "resnet14", "resnet20", "mobilenet_v1(width=0.25)", "mobilenet_v1(width=0.5)",
    "mobilenet_v2(width=0.25)", "mobilenet_v2(width=0.5)", "mobilenet_v3_small(width=0.5)", "mobilenet_v3_small",
    "shufflenet_v1(width=0.5)", "shufflenet_v1", "shufflenet_v2(width=0.5)", "shufflenet_v2",
)  # fmt: skip


class Size(NamedTuple):
    """What an export costs.

    Attributes:
        kilobytes: its size, in 1000 bytes.
        milliseconds: the median time for one image on this machine, or the time on another device.
    """

    kilobytes: float
    milliseconds: float


def measure_candidates(
    candidates: Sequence[str] = CANDIDATES,
    *,
    form: str = "litert",
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> dict[str, Size]:
    """Exports candidates with new weights and measures them on this machine.

    The files are `<run>/exports/<candidate>.tflite`, which `scripts/measure_on_device.sh` measures on a phone, and the
    sizes are in `<run>/candidates.json`: the same call measures only what is missing.

    Args:
        candidates: models of the zoo, also with options: "mobilenet_v2(width=0.5)", "resnet8(resolution=24)".
        form: "litert", "litert_float16" or "litert_int8".
        data: labeled images, as `Recipe` describes; they determine the shape of an image and the number of classes.
        run: the directory of the choice.
        **options: options of `Recipe`.

    Returns:
        The size of each candidate.

    Raises:
        ValueError: if a candidate is unknown, cannot be built for the images or cannot be exported, or if the directory
            has measurements of another form or of images of another shape.

    >>> import tempfile
    >>> sizes = measure_candidates(["mlp(hidden=(4,))"], data="digits", run=tempfile.mkdtemp())
    >>> sizes["mlp(hidden=(4,))"].kilobytes < 10
    True
    """
    names = check_candidates(candidates)
    check_choice("measure_candidates", "form", form, tuple(FORMS))
    images = load_images(make_recipe(data=data, **options))
    return {name: measure(name, form, images, Path(run)) for name in names}


def check_candidates(candidates: Sequence[str]) -> list[str]:
    """The candidates as a list.

    Raises:
        ValueError: if they are not one or more different models of the zoo.
    """
    if isinstance(candidates, str) or not all(isinstance(name, str) and names_model(name) for name in candidates):
        raise ValueError(f"The candidates must be a list of models of the zoo, but received {candidates!r}.")
    families = [name for name in candidates if name.startswith(("detector/", "segmenter/", "embedder/"))]
    if families:
        raise ValueError(f"A candidate must be a classifier, but received {', '.join(families)}.")
    if not candidates or len({repr(parse_call(name)) for name in candidates}) < len(candidates):
        raise ValueError(f"Expected one or more different candidates, but received {list(candidates)}.")
    return list(candidates)


def measure(name: str, form: str, images: Images, run: Path, network: keras.Model | None = None) -> Size:
    """The size of a network's export; what `<run>/candidates.json` has under its name is not measured again.

    Args:
        name: a model of the zoo, or another name for a network.
        form: of the export.
        images: determine the shape of an image and the number of classes.
        run: the directory of the choice.
        network: the network, if it is not a new model of the zoo.

    Raises:
        ValueError: if the network cannot be built or exported, or the directory has measurements of other images or of
            another form.
    """
    file = run / "candidates.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    about = {"form": form, "image_shape": list(images.shape), "classes": images.train.classes}
    if known and known["about"] != about:
        raise ValueError(f"{file} has measurements of {known['about']}, not of {about}. Choose another directory.")
    rows: dict[str, dict[str, float]] = known.get("candidates", {})
    if name not in rows:
        keras.utils.set_random_seed(0)
        model = build_network(name if network is None else network, images, images.train.classes or 0)
        path = run / "exports" / f"{name}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        sample = np.round(np.asarray(as_batch(next(iter(images.test_batches()))).inputs)[:32]).astype("uint8")
        export = litert(
            model, path, precision=FORMS[form], image_shape=images.shape, sample=sample,
            representative=sample if form == "litert_int8" else None, tolerance=Tolerance(),
        )  # fmt: skip
        rows[name] = Size(export.bytes / 1000, export.milliseconds)._asdict()
        LOGGER.info("%s: %.1f kB, %.3f ms.", name, rows[name]["kilobytes"], rows[name]["milliseconds"])
        write_json(file, {"about": about, "candidates": rows})
    return Size(**rows[name])


def read_latencies(path: str | os.PathLike, names: Sequence[str]) -> dict[str, float]:
    """The milliseconds of each network on a device, by name, as `scripts/measure_on_device.sh` prints them.

    Args:
        path: a CSV file with the columns "candidate" and "milliseconds".
        names: the candidates, which must have a time.

    Raises:
        ValueError: if a column or a candidate is missing, or a time is not a number above 0.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"candidate", "milliseconds"} <= rows[0].keys():
        columns = list(rows[0]) if rows else "an empty file"
        raise ValueError(f"{path} must have the columns candidate and milliseconds, but received {columns}.")
    times = {row["candidate"]: _milliseconds(row["milliseconds"], path) for row in rows}
    missing = [name for name in names if name not in times]
    if missing:
        raise ValueError(f"{path} must have a time for each candidate, but it has none for {', '.join(missing)}.")
    return times


def _milliseconds(text: str, path: str | os.PathLike) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{path} must have times above 0 in milliseconds, but received {text!r}.")
    return value


def find_fitting(sizes: Mapping[str, Size], limits: Mapping[str, float]) -> list[str]:
    """The names of the candidates within all limits.

    Raises:
        ValueError: if there are none.
    """
    fitting = [name for name, size in sizes.items() if all(getattr(size, key) <= limits[key] for key in limits)]
    if not fitting:
        lowest = {key: round(min(getattr(size, key) for size in sizes.values()), 3) for key in limits}
        raise ValueError(
            f"Expected a candidate within the limits {dict(limits)}, but the lowest values of all candidates are "
            f"{lowest}. Raise the limits, or add candidates."
        )
    return fitting
