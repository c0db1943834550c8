"""From a recipe to the devices of a run, and what follows from them before anything is built."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from kd_keras import distribute
from kd_keras.private_api import disable_op_determinism, op_determinism_is_enabled
from kd_keras.runs.recipe import Recipe

logger = logging.getLogger("kd_keras")


@contextlib.contextmanager
def chosen_strategy(recipe: Recipe) -> Iterator[tf.distribute.Strategy]:
    """The strategy of a recipe; a worker ends together with the others of its cluster.

    Make it before anything else of TensorFlow runs if it needs logical devices or a cluster. The workers beside the
    chief say nothing.
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
    """Makes operations deterministic, and ends it unless it was so before."""
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
    return _made_once(name, recipe.devices, recipe.worker_timeout)


@functools.cache
def _made_once(name: str, devices: int | None, timeout: float) -> tf.distribute.Strategy:
    """One strategy of a kind in a process: a cluster can be joined only once."""
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
    """A strategy over the devices of this machine alone, for work that the workers of a cluster share without one.

    Raises:
        ValueError: if the recipe asks for another kind.
    """
    if isinstance(recipe.strategy, tf.distribute.Strategy):
        return recipe.strategy
    if recipe.strategy not in ("auto", "multiworker", "mirrored", "one"):
        raise ValueError(f"strategy must be auto, one, mirrored or multiworker here, but received {recipe.strategy!r}.")
    several = recipe.devices or len(tf.config.list_physical_devices("GPU"))
    mirrored = recipe.strategy == "mirrored" or (recipe.strategy in ("auto", "multiworker") and several > 1)
    return _made_once("mirrored", recipe.devices, recipe.worker_timeout) if mirrored else distribute.strategy("one")


def works_here(strategy: str) -> bool:
    """Whether this process does the work of a task that needs one device; the first worker of a cluster does it."""
    if strategy in ("auto", "multiworker"):
        return distribute.worker_rank()[0] == 0
    if strategy != "one":
        logger.info("strategy=%s: one device does this, for there is nothing to divide.", strategy)
    return True


def begin(recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    """Seeds every generator and says what devices there are; after the data, whose preparation may draw numbers too.

    Raises:
        ValueError: if static shapes are asked for and the replicas do not divide a batch.
    """
    keras.utils.set_random_seed(recipe.seed)
    devices = ", ".join(device.name for device in tf.config.get_visible_devices() if device.device_type != "CPU")
    replicas = strategy.num_replicas_in_sync
    over = f" over {replicas} replicas ({type(strategy).__name__})" if replicas > 1 else ""
    logger.info("Training on %s%s.", devices or "the CPU", over)
    if recipe.drop_remainder and recipe.batch_size % replicas:
        raise ValueError(
            f"drop_remainder needs a batch size that {replicas} replicas divide, but it is {recipe.batch_size}."
        )


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Builds layers under a dtype policy, and restores the one before."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
