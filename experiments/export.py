"""Exports a trained network in forms that take raw images, and compares each with its source on the test images.

    python -m experiments.export --model=runs/student --formats=saved_model,litert,litert_float16,litert_int8,onnx

Prints one table, and writes it as `export.json` into --output, beside what it exports: `saved_model/`, `model.tflite`,
`model_float16.tflite`, `model_int8.tflite` and `model.onnx`. In `saved_model/` stands `check.npz`, raw test images and
the classes that the network gives them, so that any process can compare.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

from experiments import arguments, devices
from experiments.runs import load_model, load_result, write_text
from experiments.teachers import class_order
from kd_keras import data, export
from kd_keras.contracts import as_batch
from kd_keras.errors import explain_mismatch, suggest
from kd_keras.export.verification import TOLERANCES
from kd_keras.files import write_atomically

FLAGS = flags.FLAGS
FORMS = {"saved_model": ("saved_model", "float32"), "onnx": ("model.onnx", "float32")}
FORMS |= {"litert": ("model.tflite", "float32"), "litert_float16": ("model_float16.tflite", "float16")}
FORMS |= {"litert_int8": ("model_int8.tflite", "int8")}
arguments.define_data()
devices.define_place()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("model", None, "A finished run.", required=True)
flags.DEFINE_list("formats", ["saved_model"], f"Forms to export: {', '.join(FORMS)}.")
flags.DEFINE_string("output", None, "Directory of the exports; 'export' in the run's own by default.")
flags.DEFINE_integer("calibration", 200, "Training images that int8 takes the activations' ranges from.", lower_bound=1)
flags.DEFINE_float("max_difference", None, "Of a probability; 1e-4, for float16 1e-2, for int8 any by default.")
flags.DEFINE_float("min_agreement", None, "Share of images of the same class; 0.9 for int8, else any by default.")
flags.DEFINE_float("max_accuracy_drop", None, "Loss of accuracy; 0.02 for int8, else any by default.")


def main(_: list[str]) -> None:
    arguments.quiet()
    if not devices.chief_alone():
        return
    for form in FLAGS.formats:
        if form not in FORMS:
            raise ValueError(explain_mismatch("--formats= forms of an export", form, suggest(form, FORMS)))
    record = load_result(FLAGS.model).get("data")
    if record is None:
        raise ValueError(explain_mismatch("a finished run", FLAGS.model, "its result.json says how images are normalised"))
    model, normalise = load_model(FLAGS.model), data.Normalisation(tuple(record["mean"]), tuple(record["std"]))
    run = Path(FLAGS.model) if Path(FLAGS.model).is_dir() else Path(FLAGS.model).parent
    output, source = Path(FLAGS.output or run / "export"), arguments.load_test(record)
    images, labels = raw(source, record)
    order = class_order(record, source.class_names)
    labels = np.asarray(order)[labels] if order and labels is not None else labels
    given = {"image_shape": tuple(record["image_shape"]), "normalise": normalise, "sample": images, "labels": labels}
    given["class_names"] = record.get("class_names")
    print(f"{len(images):,} test images of {source.name}; difference and agreement are with {FLAGS.model}.\n")
    print("| form | file | kilobytes | largest difference | agreement | accuracy | milliseconds | p95 |")
    print("|---|---|" + "---:|" * 6, flush=True)
    rows, refused = {}, {}
    for form in dict.fromkeys(FLAGS.formats):
        try:
            rows[form] = write(model, form, output, record, given)
        except ValueError as error:  # the others go on; this one is said again at the end
            refused[form] = str(error)
            print(f"| {form} | refused | - | - | - | - | - | - |", flush=True)
    classes = model.predict(normalise(images / np.float32(255)), verbose=0).argmax(-1)
    if "saved_model" in rows:
        write_atomically(output / "saved_model/check.npz", lambda name: np.savez(name, images=images, classes=classes))
    accuracy = None if labels is None else float((classes == labels).mean())
    print("\nThe images have no labels." if accuracy is None else f"\nThe source: accuracy {accuracy:.4f}.")
    table = {"model": FLAGS.model, "images": len(images), "dataset": source.name, "source_accuracy": accuracy}
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "export.json", json.dumps({**table, "forms": rows, "refused": refused}, indent=1))
    if refused:
        raise ValueError("\n".join(refused.values()))


def raw(source: data.Source, record: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """A source's images as uint8, in the network's size, and their labels."""
    batches = data.evaluation(source, batch_size=FLAGS.batch_size, image_size=tuple(record["image_shape"][:2]))
    every = [as_batch(each) for each in batches]
    images = np.concatenate([np.asarray(batch.inputs) for batch in every])
    labels = np.concatenate([np.asarray(batch.label) for batch in every]) if source.labelled else None
    return np.round(images * 255).astype("uint8"), labels


def spread(record: dict) -> data.Source:
    """So many of the run's training images, from all over them: a folder has them class after class."""
    whole = data.load(record.get("dataset", FLAGS.dataset), FLAGS.train_split, FLAGS.data_dir)
    step = max(1, whole.size // FLAGS.calibration)
    some = whole.examples.shard(step, 0).take(FLAGS.calibration)
    return dataclasses.replace(whole, examples=some, size=min(FLAGS.calibration, -(-whole.size // step)))


def write(model: keras.Model, form: str, output: Path, record: dict, given: dict) -> dict[str, Any]:
    """Exports in one form, prints its row and returns it."""
    name, precision = FORMS[form]
    limits = {"difference": FLAGS.max_difference, "agreement": FLAGS.min_agreement}
    limits = {**limits, "accuracy_drop": FLAGS.max_accuracy_drop}
    own = {key: value for key, value in limits.items() if value is not None}
    given = {**given, "tolerance": TOLERANCES[precision]._replace(**own)}
    if form.startswith("litert"):
        given["precision"] = precision
    if precision == "int8":
        given["representative"] = raw(spread(record), record)[0]
    writer = export.litert if form.startswith("litert") else getattr(export, form)
    row = writer(model, output / name, **given)
    accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
    print(f"| {form} | {name} | {row.bytes / 1000:,.1f} | {row.difference:.1e} | {row.agreement:.4f} |", end=" ")
    print(f"{accuracy} | {row.milliseconds:.2f} | {row.p95:.2f} |", flush=True)
    return {**row._asdict(), "path": str(row.path)}


if __name__ == "__main__":
    app.run(main)
