"""Exports a trained network as a SavedModel that takes raw images.

    python -m experiments.export --model=runs/student --output=runs/student/saved_model

Beside it stands `check.npz`, raw test images and the classes that the network gives them: any process can compare.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import arguments, devices
from experiments.runs import load_model, load_result
from kd_keras import data
from kd_keras.contracts import as_batch, mismatch
from kd_keras.export import saved_model

FLAGS = flags.FLAGS
arguments.define_data()
devices.define_place()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("model", None, "A finished run.", required=True)
flags.DEFINE_string("output", None, "Directory of the SavedModel; the run's own by default.")


def main(_: list[str]) -> None:
    arguments.quiet()
    if not devices.chief_alone():
        return
    record = load_result(FLAGS.model).get("data")
    if record is None:
        raise ValueError(mismatch("a finished run", FLAGS.model, "its result.json says how images are normalised"))
    model, normalise = load_model(FLAGS.model), data.Normalisation(tuple(record["mean"]), tuple(record["std"]))
    output = Path(FLAGS.output or Path(FLAGS.model) / "saved_model")
    source = arguments.load_test(record)
    batches = data.evaluation(source, batch_size=FLAGS.batch_size, image_size=tuple(record["image_shape"][:2]))
    images = np.concatenate([np.asarray(as_batch(each).inputs) for each in batches])
    raw = np.round(images * 255).astype("uint8")
    difference = saved_model(
        model, output, image_shape=tuple(record["image_shape"]), normalise=normalise, sample=raw[: FLAGS.batch_size]
    )
    classes = model.predict(normalise(raw / np.float32(255)), verbose=0).argmax(-1)
    np.savez(output / "check.npz", images=raw, classes=classes)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file() and file.name != "check.npz")
    print(f"{output}: {size / 1000:,.0f} kB, within {difference:.1e} of its source on {len(raw):,} images.")


if __name__ == "__main__":
    app.run(main)
