"""The flags that say on which devices to train and how, and what follows from them before anything is built."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import keras
import tensorflow as tf
from absl import flags

from kd_keras import distribute
from kd_keras.data.pipeline import SHARDING
from kd_keras.errors import explain_mismatch
from kd_keras.training.nonfinite import CHOICES

FLAGS = flags.FLAGS


def define_place() -> None:
    """The flag of a program whose work one device does: see `chief_alone`."""
    flags.DEFINE_enum("strategy", "auto", distribute.NAMES, "Devices; auto: what TF_CONFIG, Slurm or the machine has.")


def define_local() -> None:
    """Flags of the devices of this machine."""
    define_place()
    flags.DEFINE_integer("devices", None, "GPUs, or without any logical CPUs, of this machine.", lower_bound=1)


def define_strategy() -> None:
    """Flags of the devices that a program without training runs on."""
    define_local()
    flags.DEFINE_float("worker_timeout", 20.0, "Seconds until a silent worker counts as dead.", lower_bound=1.0)
    flags.DEFINE_boolean("deterministic", False, "The same numbers bit for bit from the same command.")


def define_devices() -> None:
    """Flags of the devices that a program trains on: where, in which precision, how compiled."""
    define_strategy()
    flags.DEFINE_enum("sharding", "auto", SHARDING, "Each worker reads all data, or its own files where it can: auto.")
    flags.DEFINE_boolean("sync_batch_norm", False, "Compute the student's BatchNorm over the global batch.")
    flags.DEFINE_enum("scale_learning_rate", "none", list(distribute.RULES), "By --batch_size / --base_batch_size.")
    flags.DEFINE_integer("base_batch_size", 128, "The batch size that --learning_rate was found at.", lower_bound=1)
    flags.DEFINE_enum("jit", "auto", ["auto", "on", "off"], "XLA; auto: where it works and helps.")
    flags.DEFINE_integer("steps_per_execution", 1, "Steps to run in one call; must divide an epoch.", lower_bound=1)
    precisions = ["float32", "mixed_float16", "mixed_bfloat16"]
    flags.DEFINE_enum("precision", "float32", precisions, "Of the student's layers; float16 scales its loss.")


def define_survival() -> None:
    """Flags of what becomes of a run that is interrupted or goes astray."""
    flags.DEFINE_integer("checkpoint_every", 500, "Steps from one checkpoint to the next; 0: by epochs.", lower_bound=0)
    flags.DEFINE_integer("keep", 2, "Newest checkpoints to keep; the best is kept beside them.", lower_bound=2)
    flags.DEFINE_enum("on_nonfinite", "stop", CHOICES, "What to do where loss or gradients are not finite.")


@contextlib.contextmanager
def chosen() -> Iterator[tf.distribute.Strategy]:
    """The strategy of the flags, made before anything of TensorFlow runs; a worker ends with the others of its cluster.

    The workers beside the chief say nothing on the standard output.
    """
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = distribute.strategy(FLAGS.strategy, devices=FLAGS.devices, timeout=FLAGS.worker_timeout)
    with distribute.exit_together(strategy), contextlib.ExitStack() as stack:
        if not distribute.is_chief(strategy):
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield strategy


def of_this_machine() -> tf.distribute.Strategy:
    """A strategy over this machine's devices alone, where the workers of a cluster share the work without one."""
    several = FLAGS.devices or len(tf.config.list_physical_devices("GPU"))
    shared = FLAGS.strategy == "mirrored" or (FLAGS.strategy in ("auto", "multiworker") and several > 1)
    if FLAGS.strategy not in ("auto", "multiworker", "mirrored", "one"):
        raise ValueError(explain_mismatch("--strategy=auto, one, mirrored or multiworker here", FLAGS.strategy))
    return distribute.strategy("mirrored" if shared else "one", devices=FLAGS.devices)


def chief_alone() -> bool:
    """Whether this process does the work of a program that needs one device; the first worker of a cluster does it."""
    if FLAGS.strategy in ("auto", "multiworker"):
        return distribute.worker_rank()[0] == 0
    if FLAGS.strategy != "one":
        print(f"--strategy={FLAGS.strategy}: there is nothing to share out here, one device does it.")
    return True


def begin(strategy: tf.distribute.Strategy) -> None:
    """Seeds every generator and says what devices there are; after the data, whose preparing may draw numbers too."""
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.precision)
    devices = ", ".join(device.name for device in tf.config.get_visible_devices() if device.device_type != "CPU")
    replicas = strategy.num_replicas_in_sync
    over = f" over {replicas} replicas ({type(strategy).__name__})" if replicas > 1 else ""
    print(f"Training on {devices or 'the CPU'}{over}.", flush=True)
    if FLAGS.drop_remainder and FLAGS.batch_size % replicas:
        came = f"--batch_size={FLAGS.batch_size}"
        raise ValueError(explain_mismatch(f"a batch size that {replicas} replicas divide, for static shapes", came))


def learning_rate() -> float:
    """The highest learning rate, scaled to the batch size as the flags say."""
    sizes = FLAGS.batch_size, FLAGS.base_batch_size
    rate = distribute.scale_learning_rate(FLAGS.learning_rate, FLAGS.scale_learning_rate, *sizes)
    if FLAGS.scale_learning_rate != "none":
        rule = f"{FLAGS.scale_learning_rate}, from a batch of {FLAGS.base_batch_size} to {FLAGS.batch_size}"
        print(f"Learning rate {rate:g}: {FLAGS.learning_rate:g} scaled ({rule}).")
    return rate


def jit(strategy: tf.distribute.Strategy) -> bool | str:
    """Whether to compile with XLA; the reason is printed."""
    mode, reason = distribute.choose_xla(strategy, FLAGS.jit, FLAGS.deterministic)
    print(f"XLA {'off' if not mode else 'on'}: {reason}.", flush=True)
    return mode
