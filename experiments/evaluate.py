"""Compares trained networks with their teacher on the test images.

    python -m experiments.evaluate --teacher=runs/teacher --model=runs/alone --model=runs/student

The images are those of the teacher's run, unless --dataset names others.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices
from experiments.runs import load_model, load_result, write_text
from experiments.teachers import class_order, renormalise
from kd_keras import Teacher, data, distribute
from kd_keras.contracts import as_batch, mismatch
from kd_keras.evaluation import accuracy, agreement, answers, cost

FLAGS = flags.FLAGS
arguments.define_data()
devices.define_strategy()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("teacher", None, "The teacher: a finished run or a .keras file.", required=True)
flags.DEFINE_multi_string("model", [], "A network to compare with it; repeat for several.")
flags.DEFINE_string("output", None, "Write the table as JSON to this file too.")

COLUMNS = ("parameters", "macs", "accuracy", "agreement", "kl", "kilobytes", "milliseconds")


def main(_: list[str]) -> None:
    arguments.quiet()
    with devices.chosen() as strategy, strategy.scope():
        compare(strategy)


def compare(strategy: tf.distribute.Strategy) -> None:
    """Prints the table; the replicas share out the answers, and the chief writes."""
    with distribute.chief_first(strategy):
        source = arguments.load_test(load_result(FLAGS.teacher).get("data", {}))
    images = data.evaluation(source, batch_size=FLAGS.batch_size, image_size=arguments.integers("image_size", 2))
    some = as_batch(next(iter(images))).inputs
    rows, teacher = {}, None
    for run in [FLAGS.teacher, *FLAGS.model]:
        model, record = load_model(run), load_result(run).get("data", {})
        order = class_order(record, source.class_names)
        each = answers(Teacher(model, preprocess=renormalise(record, data.Normalisation()), class_order=order), images)
        teacher = teacher or each
        if each.logits.shape[-1] != (source.classes or each.logits.shape[-1]):
            raise ValueError(mismatch(f"{source.classes} classes", f"{run} gives {each.logits.shape[-1]}"))
        path = Path(run) / "model.keras" if Path(run).is_dir() else Path(run)
        fitting = tf.image.resize(some, model.input_shape[1:3]).numpy()
        rows[run] = dict(accuracy(each)) | dict(agreement(each, teacher)) | dict(cost(model, fitting))
        rows[run]["kilobytes"] = path.stat().st_size / 1000
    print(f"{source.size:,} test images of {source.name}; agreement and kl (nats) are with {FLAGS.teacher}.")
    print(table(rows))
    if FLAGS.output and distribute.is_chief(strategy):
        write_text(Path(FLAGS.output), json.dumps(rows, indent=1))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of results as Markdown; a value that a row lacks is a dash."""
    forms = {"parameters": "{:,.0f}", "macs": "{:,.0f}", "accuracy": "{:.4f}", "agreement": "{:.4f}", "kl": "{:.4f}"}
    lines = ["| model | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [forms.get(column, "{:.2f}").format(row[column]) if column in row else "-" for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
