"""Chooses the devices of a run from its recipe, and prepares the process before anything is built."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from kd_keras import distribute
from kd_keras.private_api import disable_op_determinism, op_determinism_is_enabled
from kd_keras.runs.recipe import Recipe

logger = logging.getLogger("kd_keras")


@contextlib.contextmanager
def chosen_strategy(recipe: Recipe) -> Iterator[tf.distribute.Strategy]:
    """The strategy of a recipe, as a context: in a cluster all workers end together, and only the chief logs.

    A strategy that needs logical devices or a cluster must be made before TensorFlow runs its first operation.
    """
    with contextlib.ExitStack() as stack:
        if recipe.deterministic:
            stack.enter_context(_deterministic())
        strategy = _strategy(recipe)
        stack.enter_context(distribute.exit_together(strategy))
        if not distribute.is_chief(strategy):
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            stack.enter_context(_silenced())
        yield strategy


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Makes operations deterministic within the context, and restores the earlier mode."""
    before = op_determinism_is_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            disable_op_determinism()


def _strategy(recipe: Recipe) -> tf.distribute.Strategy:
    if isinstance(recipe.strategy, tf.distribute.Strategy):
        return recipe.strategy
    name = distribute.detect_strategy() if recipe.strategy == "auto" else recipe.strategy
    if name == "one":
        return distribute.strategy("one", devices=recipe.devices)
    return _cached_strategy(name, recipe.devices, recipe.worker_timeout)


@functools.cache
def _cached_strategy(name: str, devices: int | None, timeout: float) -> tf.distribute.Strategy:
    """The same strategy for the same arguments, because a process can join a cluster only once."""
    return distribute.strategy(name, devices=devices, timeout=timeout)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def local_strategy(recipe: Recipe) -> tf.distribute.Strategy:
    """A strategy for the devices of this machine; in a cluster each worker does its own part of the work with it.

    Raises:
        ValueError: if the recipe names a strategy of another kind.
    """
    if isinstance(recipe.strategy, tf.distribute.Strategy):
        return recipe.strategy
    if recipe.strategy not in ("auto", "multiworker", "mirrored", "one"):
        raise ValueError(
            f"strategy must be auto, one, mirrored or multiworker for this task, but received {recipe.strategy!r}."
        )
    count = recipe.devices or len(tf.config.list_physical_devices("GPU"))
    mirrored = recipe.strategy == "mirrored" or (recipe.strategy in ("auto", "multiworker") and count > 1)
    if not mirrored:
        return distribute.strategy("one", devices=recipe.devices)
    return _cached_strategy("mirrored", recipe.devices, recipe.worker_timeout)


def works_here(strategy: str) -> bool:
    """Whether this process does a task that needs one device only; in a cluster its first worker does."""
    if strategy in ("auto", "multiworker"):
        return distribute.worker_rank()[0] == 0
    if strategy != "one":
        logger.info("strategy=%s has no effect, because this task runs on one device.", strategy)
    return True


def begin(recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    """Seeds all random generators and logs the devices; called after the data are loaded, which may draw numbers too.

    Raises:
        ValueError: if the remainder is dropped and the batch size is not a multiple of the number of replicas.
    """
    keras.utils.set_random_seed(recipe.seed)
    devices = ", ".join(device.name for device in tf.config.get_visible_devices() if device.device_type != "CPU")
    replicas = strategy.num_replicas_in_sync
    over = f" over {replicas} replicas ({type(strategy).__name__})" if replicas > 1 else ""
    logger.info("Training on %s%s.", devices or "the CPU", over)
    warn_of_emulation("precision", recipe.precision)
    if recipe.drop_remainder and recipe.batch_size % replicas:
        raise ValueError(
            f"drop_remainder needs a batch_size that is a multiple of the {replicas} replicas, but received "
            f"{recipe.batch_size}. Change batch_size."
        )


def warn_of_emulation(option: str, precision: str | None) -> None:
    """Warns of bfloat16 on a CPU that has no instructions for it; on other devices it has no effect."""
    on_cpu = all(device.device_type == "CPU" for device in tf.config.get_visible_devices())
    if precision in ("bfloat16", "mixed_bfloat16") and on_cpu and _lacks_bfloat16():
        logger.warning(
            "This processor has no instructions for bfloat16: %s=%s takes two to four times as long as "
            "float32 (experiments/results/settings.md). Use float32.",
            option,
            precision,
        )


def _lacks_bfloat16(processors: str | os.PathLike = "/proc/cpuinfo") -> bool:
    """Whether the processor says that it has no instructions for bfloat16; False on systems other than Linux."""
    try:
        text = Path(processors).read_text()
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split())


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """A context in which layers are built under a dtype policy; the earlier policy is restored."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
