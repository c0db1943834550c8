"""Predicts the classes of an image, or of all images in a folder and its folders.

    python -m experiments.predict --model=runs/student --images=photographs --output=predictions.csv --sheet=sheet.png
    python -m experiments.predict --model=runs/student/export/model_int8.tflite --images=photograph.jpg

The model is a run, a .keras file, or a SavedModel, LiteRT or ONNX file that experiments.export wrote, of a classifier.
Without --output the predictions are printed.
"""

from absl import flags

import kd_keras
from experiments.flags.program import pair, run_program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A run, a .keras file or an exported file.", required=True)
flags.DEFINE_string("images", None, "A folder of images, or an image file.", required=True)
flags.DEFINE_string("output", None, "Write the predictions to this .csv or .json file.")
flags.DEFINE_string("sheet", None, "Write a contact sheet, images with their classes, to this .png file.")
flags.DEFINE_integer("top", 3, "Number of classes for each image.", lower_bound=1)
flags.DEFINE_integer("batch_size", 100, "Images per forward pass.", lower_bound=1)
flags.DEFINE_list("image_size", None, "Height,width to resize to, for a model that reads images of any size.")


def main() -> None:
    results = kd_keras.predict(
        FLAGS.model,
        FLAGS.images,
        output=FLAGS.output,
        sheet=FLAGS.sheet,
        top=FLAGS.top,
        batch_size=FLAGS.batch_size,
        image_size=pair("image_size") if FLAGS.image_size else None,
    )
    for row in results.predictions if not FLAGS.output else ():
        pairs = zip(row.classes, row.probabilities, strict=True)
        print(row.file, ", ".join(f"{name} {value:.3f}" for name, value in pairs))
    for path in filter(None, (FLAGS.output, FLAGS.sheet)):
        print(f"{path}: {len(results.predictions):,} images")


if __name__ == "__main__":
    run_program(main)
