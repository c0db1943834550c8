"""Embeds an image, or all images in a folder and its folders: vectors, nearest neighbors, and a map of them.

    python -m experiments.embed --model=runs/student --images=photographs --output=embeddings.npz --page=page.html

The model is a run or a .keras file, or an exported network of faces. The embedding is what the classifier of the
network reads. The file has the arrays "files" and "embedding".
"""

from absl import flags

import kd_keras
from experiments.flags.program import pair, run_program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A run, a .keras file or an exported network of faces.", required=True)
flags.DEFINE_string("images", None, "A folder of images, or an image file.", required=True)
flags.DEFINE_string("output", None, "Write the embeddings to this .npz file.", required=True)
flags.DEFINE_string("page", None, "Write nearest neighbors and a map of the embeddings to this .html file.")
flags.DEFINE_integer("neighbors", 5, "Number of neighbors of an image on the page.", lower_bound=1)
flags.DEFINE_integer("batch_size", 100, "Images per forward pass.", lower_bound=1)
flags.DEFINE_list("image_size", None, "Height,width to resize to, for a model that reads images of any size.")
text = "Number of low bits that images with 16 bits per channel use, 8 to 16; by default that of the run."
flags.DEFINE_integer("image_bits", None, text, lower_bound=8, upper_bound=16)


def main() -> None:
    embeddings = kd_keras.embed(
        FLAGS.model,
        FLAGS.images,
        output=FLAGS.output,
        page=FLAGS.page,
        neighbors=FLAGS.neighbors,
        batch_size=FLAGS.batch_size,
        image_size=pair("image_size") if FLAGS.image_size else None,
        image_bits=FLAGS.image_bits,
    )
    print(f"{FLAGS.output}: {len(embeddings.files):,} images, {embeddings.vectors.shape[1]:,} values each")


if __name__ == "__main__":
    run_program(main)
