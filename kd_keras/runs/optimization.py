"""Compiles a Distiller according to a recipe: optimizer, learning rate, loss, XLA."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from kd_keras import distribute
from kd_keras.distiller import Distiller
from kd_keras.runs.recipe import Recipe
from kd_keras.training import DOT, LARS, CoupledSGD
from kd_keras.training.layer_rates import LayerRatesAdam, LayerRatesSGD, layer_factors

logger = logging.getLogger("kd_keras")


def compile_distiller(
    distiller: Distiller, recipe: Recipe, strategy: tf.distribute.Strategy, steps: int, objective: Mapping[str, Any]
) -> None:
    """Compiles a Distiller according to a recipe.

    Args:
        distiller: a Distiller that is not yet compiled.
        recipe: the recipe of the run.
        strategy: the strategy under which the Distiller was built.
        steps: the number of steps of an epoch.
        objective: the loss of the labels and the metrics, as `compile` takes them; nothing if there are no labels.
    """
    if recipe.sync_batch_norm:
        count = distribute.synchronize_batch_norm(distiller)
        logger.info("%d BatchNormalization layers use the statistics of the global batch.", count)
    mode, reason = distribute.choose_xla(strategy, recipe.jit, recipe.deterministic)
    logger.info("XLA %s: %s.", "on" if mode else "off", reason)
    is_uniform = recipe.first_layer_rate == 1
    distiller.compile(
        optimizer=optimizer(recipe, steps) if is_uniform else _with_layer_rates(recipe, steps, distiller.student),
        **objective,
        jit_compile=mode,
        steps_per_execution=recipe.steps_per_execution,
    )


def optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its learning rate over epochs of `steps` updates."""
    rate = learning_rate(recipe, steps)
    clip: dict[str, Any] = {"global_clipnorm": recipe.clip_norm or None}
    decay: dict[str, Any] = {"weight_decay": recipe.weight_decay or None, **clip}
    if recipe.optimizer == "sgd":
        if recipe.coupled_weight_decay:
            return CoupledSGD(rate, momentum=0.9, coupled_weight_decay=recipe.coupled_weight_decay, **decay)
        return keras.optimizers.SGD(rate, momentum=0.9, **decay)
    if recipe.optimizer == "lars":
        return LARS(rate, momentum=0.9, coupled_weight_decay=recipe.coupled_weight_decay, **clip)
    if recipe.optimizer == "dot":
        return DOT(
            rate,
            0.9,
            recipe.dot_delta,
            coupled_weight_decay=recipe.coupled_weight_decay,
            weight_decay=recipe.weight_decay or None,
        )
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(rate, **decay)
    return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **clip)


def _with_layer_rates(recipe: Recipe, steps: int, student: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe whose first layers have lower rates."""
    rate, factors = learning_rate(recipe, steps), layer_factors(student, recipe.first_layer_rate)
    options: dict[str, Any] = {"decay": recipe.weight_decay, "global_clipnorm": recipe.clip_norm or None}
    if recipe.optimizer == "sgd":
        return LayerRatesSGD(rate, factors, momentum=0.9, coupled_weight_decay=recipe.coupled_weight_decay, **options)
    return LayerRatesAdam(rate, factors, **options)


def learning_rate(recipe: Recipe, steps: int) -> Any:
    """The learning rate of a recipe: a number or a Keras schedule over all updates, scaled to the batch size if asked.

    >>> float(learning_rate(Recipe(schedule="steps", learning_rate=1.0, epochs=8), steps=10)(55))
    0.10000000149011612
    """
    peak = distribute.scale_learning_rate(
        recipe.learning_rate, recipe.scale_learning_rate, recipe.batch_size, recipe.base_batch_size
    )
    if recipe.scale_learning_rate != "none":
        logger.info(
            "Learning rate %g: %g scaled (%s, from a batch of %d to %d).",
            peak, recipe.learning_rate, recipe.scale_learning_rate, recipe.base_batch_size, recipe.batch_size,
        )  # fmt: skip
    total, warmup = recipe.epochs * steps, round(recipe.warmup_epochs * steps)
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "steps":
        marks = [round(total * part) for part in (5 / 8, 6 / 8, 7 / 8)]
        if recipe.decay_epochs is not None:
            marks = [epoch * steps for epoch in recipe.decay_epochs]
        rates = [peak / 10**power for power in range(len(marks) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(marks, rates)
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, total)
    return keras.optimizers.schedules.CosineDecay(0.0, total - warmup, warmup_target=peak, warmup_steps=warmup)
