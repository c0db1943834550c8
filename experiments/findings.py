"""What an evaluation found, as text: Markdown, sentences and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.inquiry import training_images
from experiments.runs import saved_flags
from kd_keras import evaluation

COLUMNS = ("parameters", "macs", "accuracy", "agreement", "kl", "kilobytes", "milliseconds")
ASKED = ("corruption_error", "mce", "gap", "auroc_probability", "auroc_energy", "attention_correlation")
ASKED += ("attention_overlap", "megabytes")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows of results as Markdown; a value that a row lacks is a dash."""
    forms = {"parameters": "{:,.0f}", "macs": "{:,.0f}", "kilobytes": "{:.2f}", "milliseconds": "{:.2f}"}
    columns = [*COLUMNS, *[name for name in ASKED if any(name in row for row in rows.values())]]
    lines = ["| model | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [forms.get(column, "{:.4f}").format(row[column]) if column in row else "-" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sentence(run: str, row: dict[str, Any]) -> str:
    """How sure a row's accuracy is, and how sure the model is of itself."""
    if "accuracy" not in row:
        return f"{run}: no labels, so no accuracy."
    said = f"{run}: accuracy {row['accuracy']:.4f} (95 %: {row['accuracy_low']:.4f} to {row['accuracy_high']:.4f})"
    if "difference" in row:
        ends = f"{row['difference_low']:+.4f} to {row['difference_high']:+.4f}"
        said += f", against the teacher {row['difference']:+.4f} ({ends}; McNemar p {row['mcnemar']:.3g})"
    if "ece_scaled" in row:
        said += f"; calibration error {row['ece']:.4f}, {row['ece_scaled']:.4f} at temperature {row['temperature']:.2f}"
    if "cka" in row:
        said += f"; CKA of stages {row['cka'].round(2).tolist()}"
    return said + "."


def by_size(found: dict[str, dict[str, Any]], models: Sequence[str], data_dir: str | None) -> list[str]:
    """A table for each group of models that differ in their training images alone."""
    given = {run: saved_flags(run) for run in models if "accuracy" in found[run]}
    if len({each.get("train_split") for each in given.values()}) < 2:
        return []
    runs = {
        run: evaluation.Trained(each, training_images(run, data_dir).size, found[run]["accuracy"])
        for run, each in given.items() if "train_split" in each
    }
    groups = evaluation.by_training_size(runs)
    head = "| model | training images | accuracy |\n|---|---:|---:|"
    return ["\n".join([head, *[f"| {run} | {size:,} | {right:.4f} |" for run, size, right in rows]]) for rows in groups]


def plain(value: Any) -> Any:
    """Findings as JSON has them: arrays as lists, and what is not a number as null."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(each) for each in np.asarray(value).tolist()] if len(value) else []
    return None if value != value else value
