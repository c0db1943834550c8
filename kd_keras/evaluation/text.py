"""Findings as text: a Markdown table, sentences, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_keras.evaluation.generalization import SizedRun, group_by_training_size

COLUMNS = ("parameters", "macs", "accuracy", "agreement", "kl", "kilobytes", "milliseconds")
OPTIONAL_COLUMNS = (
    "corruption_error", "mce", "gap", "auroc_probability", "auroc_energy", "attention_correlation", "attention_overlap",
    "megabytes",
)  # fmt: skip
FORMATS = {"parameters": "{:,.0f}", "macs": "{:,.0f}", "kilobytes": "{:.2f}", "milliseconds": "{:.2f}"}


def findings_table(
    rows: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str] = COLUMNS,
    optional_columns: Sequence[str] = OPTIONAL_COLUMNS,
) -> str:
    """The findings of several models as a Markdown table; a missing value is a dash.

    Args:
        rows: by name of the model, its findings.
        columns: the findings of the table.
        optional_columns: those that are added if a model has them.

    >>> print(findings_table({"small": {"accuracy": 0.5}}).splitlines()[2])
    | small | - | - | 0.5000 | - | - | - | - |
    """
    columns = [*columns, *[name for name in optional_columns if any(name in row for row in rows.values())]]
    lines = ["| model | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [FORMATS.get(column, "{:.4f}").format(row[column]) if column in row else "-" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(name: str, findings: Mapping[str, Any]) -> str:
    """A sentence on how certain a model's accuracy is, and on its calibration.

    >>> describe("small", {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6})
    'small: accuracy 0.5000 (95 %: 0.4000 to 0.6000).'
    """
    if "accuracy" not in findings:
        return f"{name}: accuracy is not known, because the images have no labels."
    text = f"{name}: {describe_metric('accuracy', 'accuracy', findings)}"
    if "ece_scaled" in findings:
        text += f"; calibration error {findings['ece']:.4f}, {findings['ece_scaled']:.4f} after scaling by temperature"
        text += f" {findings['temperature']:.2f}"
    if "cka" in findings:
        text += f"; CKA of stages {findings['cka'].round(2).tolist()}"
    return text + "."


def describe_metric(label: str, metric: str, findings: Mapping[str, Any], basis: str = "95 %") -> str:
    """A metric with its interval and its difference from the teacher, as far as they are known.

    Args:
        label: the metric in words.
        metric: the name of its finding.
        findings: about a network.
        basis: the probability of the interval, and what is resampled.

    >>> findings = {"ap": 0.5, "ap_low": 0.4, "ap_high": 0.6, "difference": -0.1}
    >>> describe_metric("AP", "ap", findings)
    'AP 0.5000 (95 %: 0.4000 to 0.6000), difference from the teacher -0.1000'
    """
    text = f"{label} {findings[metric]:.4f}"
    if f"{metric}_low" in findings:
        text += f" ({basis}: {findings[f'{metric}_low']:.4f} to {findings[f'{metric}_high']:.4f})"
    if "difference" in findings:
        text += f", difference from the teacher {findings['difference']:+.4f}"
    if "difference_low" in findings:
        text += f" ({findings['difference_low']:+.4f} to {findings['difference_high']:+.4f}"
        text += f"; McNemar p {findings['mcnemar']:.3g})" if "mcnemar" in findings else ")"
    return text


def size_tables(runs: Mapping[str, SizedRun], metric: str = "accuracy") -> list[str]:
    """A Markdown table for each group of runs that differ only in their number of training images.

    Args:
        runs: by name, the runs, whose `accuracy` may be another metric.
        metric: its name.
    """
    head = f"| model | training images | {metric} |\n|---|---:|---:|"
    return [
        "\n".join([head, *[f"| {name} | {size:,} | {accuracy:.4f} |" for name, size, accuracy in rows]])
        for rows in group_by_training_size(runs)
    ]


def to_json(value: Any) -> Any:
    """Findings as values of JSON: arrays become lists, NaN becomes null.

    >>> to_json({"a": np.array([1.0, float("nan")])})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: to_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [to_json(entry) for entry in np.asarray(value).tolist()] if len(value) else []
    return None if value != value else value
