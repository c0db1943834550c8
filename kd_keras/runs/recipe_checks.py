"""Checks values of a recipe that need others: those of the schedule, and those of the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_keras.runs.recipe_values import DOT_DELTA

if TYPE_CHECKING:
    from kd_keras.runs.recipe import Recipe


def check_schedule(recipe: Recipe) -> None:
    """Raises a ValueError if the warm-up or the epochs of decay do not fit the schedule."""
    if recipe.warmup_epochs and recipe.schedule != "cosine":
        raise ValueError(
            f"warmup_epochs={recipe.warmup_epochs} needs schedule='cosine', but received {recipe.schedule!r}."
            " Change the schedule, or leave out the warm-up."
        )
    if recipe.warmup_epochs and recipe.warmup_epochs >= recipe.epochs:
        raise ValueError(
            f"Expected a warm-up shorter than the training of epochs={recipe.epochs}, but received "
            f"warmup_epochs={recipe.warmup_epochs}. Make it shorter."
        )
    if (marks := recipe.decay_epochs) is not None:
        is_rising = bool(marks) and list(marks) == sorted({*marks}) and 0 < marks[0] and marks[-1] < recipe.epochs
        if recipe.schedule != "steps" or not is_rising:
            raise ValueError(
                f"Expected decay_epochs in rising order, from 1 to below epochs={recipe.epochs}, with "
                f"schedule='steps', but received {','.join(map(str, marks))} with {recipe.schedule!r}."
            )


def check_optimizer(recipe: Recipe) -> None:
    """Raises a ValueError if an option belongs to another optimizer."""
    if recipe.coupled_weight_decay and recipe.optimizer not in ("sgd", "lars", "dot"):
        raise ValueError(
            f"coupled_weight_decay={recipe.coupled_weight_decay} needs optimizer='sgd', 'lars' or 'dot', but received"
            f" {recipe.optimizer!r}. Pass weight_decay instead."
        )
    if recipe.weight_decay and recipe.optimizer == "lars":
        raise ValueError(
            f"weight_decay={recipe.weight_decay} needs another optimizer than 'lars', whose steps contain the decay. "
            "Pass coupled_weight_decay instead."
        )
    if recipe.clip_norm and recipe.optimizer == "dot":
        raise ValueError(f"clip_norm={recipe.clip_norm} needs another optimizer than 'dot', which does not clip.")
    if not 0 < recipe.first_layer_rate <= 1 or recipe.first_layer_rate < 1 and recipe.optimizer in ("lars", "dot"):
        raise ValueError(
            "first_layer_rate must be above 0 and at most 1, and 1 for the optimizers 'lars' and 'dot', but "
            f"received {recipe.first_layer_rate} for {recipe.optimizer!r}."
        )
    if recipe.first_layer_rate < 1 and recipe.freeze_backbone:
        raise ValueError(
            f"first_layer_rate={recipe.first_layer_rate} has no effect with freeze_backbone, which trains only the "
            "classifier. Leave one of them out."
        )
    if recipe.dot_delta != DOT_DELTA and recipe.optimizer != "dot":
        raise ValueError(f"dot_delta={recipe.dot_delta} needs optimizer='dot', but received {recipe.optimizer!r}.")
