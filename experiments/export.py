"""Exports a trained network in formats that take raw images, and compares every export with it on the test images.

    python -m experiments.export --model=runs/student --formats=saved_model,litert,litert_float16,litert_int8,onnx

Prints a table of the exports and writes to --output the exports (`saved_model/`, `model.tflite`,
`model_float16.tflite`, `model_int8.tflite`, `model.onnx`) and the table as `export.json`. The file
`saved_model/check.npz` contains the raw test images and the classes that the network predicts for them, so that any
process can repeat the comparison.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices
from experiments.flags.program import given, given_options, run_program
from kd_keras.runs.devices import works_here
from kd_keras.runs.export import FORMATS, OPTIONS

FLAGS = flags.FLAGS
data.define_data(without=("image_size", "without_classes"))
devices.define_place()
for group in (data, devices):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("model", None, "A run or a .keras file.", required=True)
flags.DEFINE_list("formats", ["saved_model"], f"Formats to export: {', '.join(FORMATS)}.")
flags.DEFINE_string("output", None, "Directory of the exports; by default 'export' in the directory of the run.")
text = "The largest number of training images from which int8 takes the ranges of activations."
flags.DEFINE_integer("calibration", 200, text, lower_bound=1)
# The entry of the function's `tolerance`, the flag, and its text.
TOLERANCES = [
    ("difference", "max_difference", "Largest accepted difference of a probability; default: 1e-4, float16 1e-2."),
    (
        "agreement",
        "min_agreement",
        "Lowest accepted share of images or pixels predicted alike; default: int8 0.9.",
    ),
    ("accuracy_drop", "max_accuracy_drop", "Largest accepted loss of accuracy; default: int8 0.02, two points."),
    ("matched", "min_matched", "Lowest accepted share of the boxes; default: 0.99, float16 0.95, int8 0.7."),
    ("score", "max_score_difference", "Largest accepted difference of a box's score; default: 1e-3, float16 0.03."),
    ("pixels", "max_box_difference", "Largest accepted difference of a box's edge in pixels; default: 0.1."),
    ("ap_drop", "max_ap_drop", "Largest accepted loss of AP; default: float16 0.01, int8 0.05."),
    ("lowest_cosine", "min_cosine", "Lowest accepted cosine; default: 1 - 1e-5, float16 0.999, int8 0.95."),
]
for _, flag, text in TOLERANCES:
    flags.DEFINE_float(flag, None, text)


def main() -> None:
    if works_here(FLAGS.strategy):
        kd_keras.export(
            FLAGS.model,
            FLAGS.formats,
            output=FLAGS.output,
            data=given("test_data") or given("data"),
            calibration=FLAGS.calibration,
            tolerance={name: FLAGS[flag].value for name, flag, _ in TOLERANCES if FLAGS[flag].value is not None},
            **given_options(OPTIONS),
        )


if __name__ == "__main__":
    run_program(main)
