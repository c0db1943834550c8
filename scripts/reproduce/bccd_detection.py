"""Teaches a small detector on bccd, 364 photographs of blood cells, and prints the average precision as Markdown.

    python -m scripts.reproduce.bccd_detection --data_dir=DIR --runs=runs/bccd --seeds 0 1 2

One teacher; for each seed, the student trained without it, and the student taught in three ways. The epoch that is best
on the validation images is measured on the 72 test images. Complete runs are not run again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from kd_keras.runs import Run, evaluate
from scripts.reproduce.programs import complete, data_flags

CONFIG = "--flagfile=experiments/configs/bccd.flags"
HEAD = "head='gfl', pyramid=(2, 3, 4), anchor_scale=4"
TEACHER = f"detector/resnet18_imagenet({HEAD}, width=64)"
STUDENT = f"detector/applications/MobileNetV3Small({HEAD}, width=24, depth=1)"
LOGITS = ["bckd(student_tap='class_logits', teacher_tap='class_logits')", "ld"]
FEATURES = ["pkd"]
RECIPES = {"logits and LD": LOGITS, "features (PKD)": FEATURES, "both": LOGITS + FEATURES}
COLUMNS = ("ap", "ap50", "ap75")


def teacher_of(options: argparse.Namespace) -> Run:
    """The complete run of the teacher, which all students share."""
    return complete(Path(options.runs) / "teacher", "train", *flags_of(options, 0), f"--model={TEACHER}")


def flags_of(options: argparse.Namespace, seed: int) -> list[str]:
    """The flags of all programs."""
    return [CONFIG, f"--seed={seed}", *data_flags(options.data_dir), *options.flags]


def students_of(options: argparse.Namespace, teacher: Run, seed: int) -> dict[str, Run]:
    """The complete runs of a seed, by name."""
    directory, shared = Path(options.runs) / f"seed{seed}", flags_of(options, seed)
    runs = {"student alone": complete(directory / "baseline", "train", *shared, f"--model={STUDENT}")}
    for name, methods in RECIPES.items():
        flags = [f"--method={method}" for method in methods]
        flags += [f"--teacher={teacher.path}", f"--student={STUDENT}", "--hard_weight=1"]
        runs[name] = complete(directory / name.partition(" ")[0], "distill", *shared, *flags)
    return runs


def findings_of(options: argparse.Namespace, teacher: Run, students: dict[str, Run]) -> dict[str, dict[str, Any]]:
    """What is measured on the test images, by name of the network, the teacher first."""
    where: dict[str, Any] = {"data": "bccd", "test_split": "test", "data_dir": options.data_dir}
    findings = evaluate(list(students.values()), teacher=teacher, **where).findings
    return dict(zip(["teacher", *students], findings.values(), strict=True))


def row(name: str, results: list[dict[str, Any]]) -> str:
    """The mean of the seeds and the spread of AP."""
    means = {key: statistics.mean(float(result[key]) for result in results) for key in COLUMNS}
    precisions = [float(result["ap"]) for result in results]
    spread = f"{statistics.stdev(precisions):.3f}" if len(precisions) > 1 else "-"
    listed = " ".join(f"{value:.3f}" for value in precisions)
    cells = [name, f"{means['ap']:.3f}", spread, f"{means['ap50']:.3f}", f"{means['ap75']:.3f}", listed]
    cells += [f"{results[0]['parameters']:,}", f"{statistics.mean(r['milliseconds'] for r in results):.1f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs/bccd", help="directory of the runs")
    parser.add_argument("--data_dir", help="where TFDS keeps prepared datasets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("flags", nargs="*", help="further flags of all programs")
    options = parser.parse_args()
    teacher, results = teacher_of(options), {}  # the findings of all seeds, by name
    for seed in options.seeds:
        for name, findings in findings_of(options, teacher, students_of(options, teacher, seed)).items():
            results.setdefault(name, []).append(findings)
    print("| | AP | spread | AP50 | AP75 | each seed | parameters | ms |\n|---|---:|---:|---:|---:|---|---:|---:|")
    for name, findings in results.items():
        print(row(name, findings))


if __name__ == "__main__":
    main()
