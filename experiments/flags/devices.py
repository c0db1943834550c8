"""Flags of the devices on which a program runs, and of the checkpoints of a run."""

from absl import flags

from kd_keras import distribute
from kd_keras.data import SHARDING
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.recipe_values import JIT, NONFINITE, PRECISIONS


def define_place() -> None:
    """Defines the flag of a program that needs one device."""
    text = "Strategy; auto: the first that exists of a TPU, a cluster (TF_CONFIG, Slurm), several GPUs, one device."
    flags.DEFINE_enum("strategy", Recipe.strategy, distribute.NAMES, text)


def define_local() -> None:
    """Defines the flags of the devices of this machine."""
    define_place()
    text = "Number of devices of this machine: GPUs, or, with --strategy=mirrored, logical CPUs if it has no GPU."
    flags.DEFINE_integer("devices", None, text, lower_bound=1)


def define_strategy() -> None:
    """Defines the flags of the devices of a program that does not train."""
    define_local()
    text = "Seconds after which a worker that does not start or respond counts as lost."
    flags.DEFINE_float("worker_timeout", Recipe.worker_timeout, text, lower_bound=1.0)
    text = "Make a repeated command give the same numbers bit for bit."
    flags.DEFINE_boolean("deterministic", Recipe.deterministic, text)


def define_devices() -> None:
    """Defines the flags of the devices of a program that trains, with precision and compilation."""
    define_strategy()
    text = "data: each worker reads all data; file: each worker reads its own files; auto: file if possible."
    flags.DEFINE_enum("sharding", Recipe.sharding, SHARDING, text)
    flags.DEFINE_boolean("sync_batch_norm", False, "Compute the student's batch normalization over the global batch.")
    rules = list(distribute.RULES)
    text = "Scale the learning rate by --batch_size / --base_batch_size: not at all, by its square root, or linearly."
    flags.DEFINE_enum("scale_learning_rate", Recipe.scale_learning_rate, rules, text)
    text = "The batch size that --learning_rate was chosen for."
    flags.DEFINE_integer("base_batch_size", Recipe.base_batch_size, text, lower_bound=1)
    flags.DEFINE_enum("jit", Recipe.jit, JIT, "Compile with XLA; auto: if it works and helps.")
    text = "Steps to run in one call; the steps of an epoch must be a multiple of it."
    flags.DEFINE_integer("steps_per_execution", Recipe.steps_per_execution, text, lower_bound=1)
    text = "Precision of the student's layers; mixed_float16 also scales the loss."
    flags.DEFINE_enum("precision", Recipe.precision, PRECISIONS, text)


def define_survival() -> None:
    """Defines the flags of checkpoints, and of what happens if a training diverges."""
    text = "Number of steps between checkpoints; 0 saves one at the end of epochs only."
    flags.DEFINE_integer("checkpoint_every", Recipe.checkpoint_every, text, lower_bound=0)
    text = "Number of the newest checkpoints to keep, in addition to the best one."
    flags.DEFINE_integer("keep", Recipe.keep, text, lower_bound=2)
    text = "What to do if the loss or gradients are not finite: stop the training, or skip the batch."
    flags.DEFINE_enum("on_nonfinite", Recipe.on_nonfinite, NONFINITE, text)
