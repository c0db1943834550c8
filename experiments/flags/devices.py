"""Flags that say on which devices a program runs, and what becomes of a run that is interrupted."""

from absl import flags

from kd_keras import distribute
from kd_keras.data import SHARDING
from kd_keras.runs.recipe import JIT, NONFINITE, PRECISIONS, Recipe


def define_place() -> None:
    """The flag of a program whose work one device does."""
    text = "Devices; auto: what TF_CONFIG, Slurm or the machine offers."
    flags.DEFINE_enum("strategy", Recipe.strategy, distribute.NAMES, text)


def define_local() -> None:
    """Flags of the devices of this machine."""
    define_place()
    flags.DEFINE_integer("devices", None, "GPUs, or without any logical CPUs, of this machine.", lower_bound=1)


def define_strategy() -> None:
    """Flags of the devices that a program without training runs on."""
    define_local()
    flags.DEFINE_float(
        "worker_timeout", Recipe.worker_timeout, "Seconds until a silent worker counts as lost.", lower_bound=1.0
    )
    flags.DEFINE_boolean("deterministic", Recipe.deterministic, "The same numbers bit for bit from the same command.")


def define_devices() -> None:
    """Flags of the devices that a program trains on: where, in which precision, how compiled."""
    define_strategy()
    flags.DEFINE_enum(
        "sharding", Recipe.sharding, SHARDING, "Each worker reads all data, or its own files; auto: if it can."
    )
    flags.DEFINE_boolean("sync_batch_norm", False, "Compute the student's batch normalization over the global batch.")
    rules = list(distribute.RULES)
    flags.DEFINE_enum("scale_learning_rate", Recipe.scale_learning_rate, rules, "By --batch_size / --base_batch_size.")
    text = "The batch size that --learning_rate was chosen for."
    flags.DEFINE_integer("base_batch_size", Recipe.base_batch_size, text, lower_bound=1)
    flags.DEFINE_enum("jit", Recipe.jit, JIT, "XLA; auto: where it works and helps.")
    text = "Steps to run in one call; must divide an epoch."
    flags.DEFINE_integer("steps_per_execution", Recipe.steps_per_execution, text, lower_bound=1)
    flags.DEFINE_enum("precision", Recipe.precision, PRECISIONS, "Of the student's layers; float16 scales its loss.")


def define_survival() -> None:
    """Flags that say what becomes of a run that is interrupted or diverges."""
    text = "Steps from one checkpoint to the next; 0: at the end of epochs only."
    flags.DEFINE_integer("checkpoint_every", Recipe.checkpoint_every, text, lower_bound=0)
    flags.DEFINE_integer("keep", Recipe.keep, "Newest checkpoints to keep; the best is kept as well.", lower_bound=2)
    text = "What to do if the loss or gradients are not finite."
    flags.DEFINE_enum("on_nonfinite", Recipe.on_nonfinite, NONFINITE, text)
