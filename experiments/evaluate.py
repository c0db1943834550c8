"""Compares trained networks with their teacher on the test images.

    python -m experiments.evaluate --teacher=runs/teacher --model=runs/alone --model=runs/student --dataset=digits
"""

import json
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import arguments
from experiments.runs import load_model, load_result, write_text
from experiments.teachers import renormalise
from kd_keras import data
from kd_keras.contracts import mismatch
from kd_keras.evaluation import accuracy, agreement, answers, cost

FLAGS = flags.FLAGS
arguments.define_data()
flags.DEFINE_string("teacher", None, "The teacher: a finished run or a .keras file.", required=True)
flags.DEFINE_multi_string("model", [], "A network to compare with it; repeat for several.")
flags.DEFINE_string("output", None, "Write the table as JSON to this file too.")

COLUMNS = ("parameters", "accuracy", "agreement", "kl", "kilobytes", "milliseconds")


def main(_: list[str]) -> None:
    arguments.quiet()
    source = data.load(FLAGS.test_dataset or FLAGS.dataset, FLAGS.test_split, FLAGS.data_dir)
    size = arguments.integers("image_size", 2)
    identity = data.Normalisation()
    images = data.evaluation(source, batch_size=FLAGS.batch_size, image_size=size)
    single = np.concatenate([np.asarray(x) for x, *_ in images.take(1)])
    rows, teacher = {}, None
    for run in [FLAGS.teacher, *FLAGS.model]:
        model, record = load_model(run), load_result(run).get("data", {})
        preprocess = renormalise(record, identity)
        each = answers(model, images, preprocess)
        teacher = teacher or each
        if each.logits.shape[-1] != (source.classes or each.logits.shape[-1]):
            raise ValueError(mismatch(f"{source.classes} classes", f"{run} gives {each.logits.shape[-1]}"))
        path = Path(run) / "model.keras" if Path(run).is_dir() else Path(run)
        rows[run] = dict(accuracy(each)) | dict(agreement(each, teacher)) | dict(cost(model, single))
        rows[run]["kilobytes"] = path.stat().st_size / 1000
    print(f"{source.size:,} test images of {source.name}; agreement and kl (nats) are with {FLAGS.teacher}.")
    print(table(rows))
    if FLAGS.output:
        write_text(Path(FLAGS.output), json.dumps(rows, indent=1))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of results as Markdown; a value that a row lacks is a dash."""
    forms = {"parameters": "{:,.0f}", "accuracy": "{:.4f}", "agreement": "{:.4f}", "kl": "{:.4f}"}
    lines = ["| model | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [forms.get(column, "{:.2f}").format(row[column]) if column in row else "-" for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
