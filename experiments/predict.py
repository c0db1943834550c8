"""Predicts the classes, boxes or masks of an image, or of all images in a folder and its folders.

    python -m experiments.predict --model=runs/student --images=photographs --output=predictions.csv --sheet=sheet.png
    python -m experiments.predict --model=runs/student/export/model_int8.tflite --images=photograph.jpg
    python -m experiments.predict --model=runs/detector --images=photographs --output=boxes.json --score=0.5
    python -m experiments.predict --model=runs/segmenter --images=photographs --output=shares.csv --masks=masks

The model is a run, a .keras file, or a SavedModel, LiteRT or ONNX file that experiments.export wrote: a classifier, a
detector or a segmentation network. A detector gives the class, the score and the box of each object, in pixels of the
original image. A segmentation network writes a mask of the original size for each image, a PNG file whose pixels are
the numbers of the classes, and gives the share of the pixels of each class. For networks of faces use
experiments.embed. Without --output the predictions are printed.
"""

from absl import flags

import kd_keras
from experiments.flags import folder
from experiments.flags.program import run_program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A run, a .keras file or an exported file.", required=True)
flags.DEFINE_string("output", None, "Write the predictions to this .csv or .json file.")
flags.DEFINE_string("sheet", None, "Write a contact sheet, images with their predictions, to this .png file.")
flags.DEFINE_integer("top", None, "Number of classes for each image of a classifier; 3 by default.", lower_bound=1)
flags.DEFINE_float("score", None, "Lowest score of a detector's box, from 0.05 to 1; 0.3 by default.")
flags.DEFINE_string("masks", None, "The folder of the masks that a segmentation network writes; it needs one.")
folder.define_folder()
flags.adopt_module_key_flags(folder)


def main() -> None:
    results = kd_keras.predict(
        FLAGS.model,
        FLAGS.images,
        output=FLAGS.output,
        sheet=FLAGS.sheet,
        top=FLAGS.top,
        score=FLAGS.score,
        masks=FLAGS.masks,
        **folder.folder_options(),
    )
    for row in results.predictions if not FLAGS.output else ():
        print(row)
    for path in filter(None, (FLAGS.output, FLAGS.sheet, FLAGS.masks)):
        print(f"{path}: {len(results.predictions):,} images")


if __name__ == "__main__":
    run_program(main)
