"""The flags of programs that read the images in a folder: which images, and how they are read."""

from typing import Any

from absl import flags

from experiments.flags.program import pair

FLAGS = flags.FLAGS


def define_folder() -> None:
    """Defines the flags."""
    flags.DEFINE_string("images", None, "A folder of images, or an image file.", required=True)
    flags.DEFINE_integer("batch_size", 100, "Images per forward pass.", lower_bound=1)
    flags.DEFINE_list("image_size", None, "Height,width to resize to, for a model that reads images of any size.")
    text = "Number of low bits that images with 16 bits per channel use, 8 to 16; by default that of the run."
    flags.DEFINE_integer("image_bits", None, text, lower_bound=8, upper_bound=16)


def folder_options() -> dict[str, Any]:
    """How the images are read, as options of `kd_keras.predict` and `kd_keras.embed`."""
    image_size = pair("image_size") if FLAGS.image_size else None
    return {"batch_size": FLAGS.batch_size, "image_size": image_size, "image_bits": FLAGS.image_bits}
