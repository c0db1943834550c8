"""Flags of the images, and of the views of them on which a network is trained."""

from collections.abc import Collection

from absl import flags

from kd_keras.runs.recipe import Recipe
from kd_keras.tasks import NAMES as TASKS


def define_data(without: Collection[str] = ()) -> None:
    """Defines the flags of the images, except for some that a program does not read."""
    text = "A TFDS name, 'digits', or a folder of classes, boxes, masks or images without labels."
    flags.DEFINE_string("data", Recipe.data, text)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared datasets; its usual place by default.")
    flags.DEFINE_enum("task", None, TASKS, "The kind of problem; by default by the labels. Faces need --task=faces.")
    flags.DEFINE_string("train_split", Recipe.train_split, "Split to train on, in TFDS's notation: 'train[:5000]'.")
    flags.DEFINE_list("without_classes", None, "Numbers of classes to leave out of the training images.")
    flags.DEFINE_string("test_data", None, "Images to test on, as for --data; by default those of --data.")
    flags.DEFINE_string("test_split", Recipe.test_split, "Split to test on.")
    flags.DEFINE_list("image_size", None, "Height,width to resize to, in pixels; by default the size of the images.")
    text = "1 to read gray images, 3 for colors; by default what the dataset has."
    flags.DEFINE_integer("image_channels", None, text, lower_bound=1, upper_bound=3)
    text = "Of a folder of images with 16 bits per channel: the number of low bits that their values use."
    flags.DEFINE_integer("image_bits", None, text, lower_bound=8, upper_bound=16)
    text = "Of masks whose dataset does not name their classes: the names in the order of the values 0, 1, ..."
    flags.DEFINE_list("class_names", None, text)
    flags.DEFINE_list("ignored", None, "Values of the pixels of masks that belong to no class.")
    text = "Seconds without progress after which the download of a dataset is given up."
    flags.DEFINE_float("download_timeout", Recipe.download_timeout, text, lower_bound=1.0)
    flags.DEFINE_integer("batch_size", Recipe.batch_size, "Images per step, over all devices.", lower_bound=1)
    for name in without:
        delattr(flags.FLAGS, name)


def define_views() -> None:
    """Defines the flags of the views of the training images: seed, order and augmentation."""
    flags.DEFINE_integer("seed", Recipe.seed, "Seed of weights, order and augmentation.", lower_bound=0)
    text = "Views of every image: epoch e shows view e mod --views; by default each epoch a new one; record: 1."
    flags.DEFINE_integer("views", None, text, lower_bound=1)
    flags.DEFINE_boolean(
        "drop_remainder", False, "Leave out the smaller last batch of an epoch; shapes are static (TPU)."
    )
    text = "Images of each person in a batch, such as 4 for --method=ekd; by default they come in any order."
    flags.DEFINE_integer("images_per_identity", None, text, lower_bound=2)
    flags.DEFINE_integer("crop", Recipe.crop, "Augmentation: pixels of padding before a random crop.", lower_bound=0)
    flags.DEFINE_boolean("flip", Recipe.flip, "Augmentation: mirror left to right at random.")
    flags.DEFINE_integer("shift", Recipe.shift, "Augmentation: the largest random shift, in pixels.", lower_bound=0)
    flags.DEFINE_boolean("resized_crop", Recipe.resized_crop, "Augmentation: crop a random part and resize it.")
    text = "Augmentation: smallest,largest factor of a random scale before a crop of the original size."
    flags.DEFINE_list("scale", None, text)
    flags.DEFINE_list("rand_augment", None, "Augmentation: layers,magnitude of RandAugment.")
    flags.DEFINE_float(
        "mixup", Recipe.mixup, "Augmentation: alpha of mixup; 0 is off, 1 draws ratios uniformly.", lower_bound=0.0
    )
    flags.DEFINE_float("cutmix", Recipe.cutmix, "Augmentation: alpha of CutMix; 0 is off.", lower_bound=0.0)
    text = "Augmentation for boxes: the share of images that become a window of four images."
    flags.DEFINE_float("mosaic", Recipe.mosaic, text, lower_bound=0.0, upper_bound=1.0)
