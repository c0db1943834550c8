"""Embeds an image, or all images in a folder and its folders: vectors, nearest neighbors, and a map of them.

    python -m experiments.embed --model=runs/student --images=photographs --output=embeddings.npz --page=page.html

The model is a run or a .keras file, or an exported network of faces. The embedding is what the classifier of the
network reads. The file has the arrays "files" and "embedding".
"""

from absl import flags

import kd_keras
from experiments.flags import folder
from experiments.flags.program import run_program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A run, a .keras file or an exported network of faces.", required=True)
flags.DEFINE_string("output", None, "Write the embeddings to this .npz file.", required=True)
flags.DEFINE_string("page", None, "Write nearest neighbors and a map of the embeddings to this .html file.")
flags.DEFINE_integer("neighbors", 5, "Number of neighbors of an image on the page.", lower_bound=1)
folder.define_folder()
flags.adopt_module_key_flags(folder)


def main() -> None:
    embeddings = kd_keras.embed(
        FLAGS.model,
        FLAGS.images,
        output=FLAGS.output,
        page=FLAGS.page,
        neighbors=FLAGS.neighbors,
        **folder.folder_options(),
    )
    print(f"{FLAGS.output}: {len(embeddings.files):,} images, {embeddings.vectors.shape[1]:,} values each")


if __name__ == "__main__":
    run_program(main)
