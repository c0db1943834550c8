"""Checks of the request of a choice, before anything is measured or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_keras import distribute
from kd_keras.errors import check_number
from kd_keras.methods import Method
from kd_keras.runs import devices
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.methods import make_methods
from kd_keras.runs.recipe import make_recipe
from kd_keras.runs.students import check_fine_tuning
from kd_keras.schemes.outcome import as_texts, require_classification


def check_limits(limits: Mapping[str, float | None]) -> dict[str, float]:
    """The limits that are given, by the name of the size.

    Raises:
        TypeError: if one is not a number.
        ValueError: if one is not above 0.

    >>> check_limits({"kilobytes": 100, "milliseconds": None})
    {'kilobytes': 100.0}
    """
    return {
        name: check_number("choose", f"max_{name}", limit, above=0)
        for name, limit in limits.items()
        if limit is not None
    }


def check_recipes(
    recipes: Mapping[str, Mapping[str, Any]] | None, methods: Sequence[str | Method], options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The recipes by name, with their methods as texts. The only recipe of `methods` has an empty name.

    Args:
        recipes: by name, or `None`.
        methods: instead of recipes.
        options: the other options of the choice, from which `hard_weight` is taken out.

    Raises:
        TypeError: if methods are not a list.
        ValueError: if there are recipes and methods, or a recipe or a method is invalid.

    >>> check_recipes(None, ["kd"], {"hard_weight": 0.1})
    {'': {'methods': ['kd'], 'hard_weight': 0.1}}
    """
    given = {"hard_weight": options.pop("hard_weight")} if "hard_weight" in options else {}
    if recipes is None:
        checked = {"": {"methods": as_texts(methods), **given}}
    else:
        if given or list(methods) != ["kd"]:
            raise ValueError(
                f"Expected recipes= or methods= and hard_weight=, but received recipes={dict(recipes)} with "
                f"methods={list(methods)} and {given}. Write methods and hard weight of each recipe in recipes=."
            )
        if not recipes:
            raise ValueError("Expected one or more recipes, but received none. Leave out recipes= for KD alone.")
        checked = {name: _check_recipe(name, recipe) for name, recipe in recipes.items()}
    for recipe in checked.values():
        make_methods(recipe["methods"])
    return checked


def _check_recipe(name: str, recipe: Any) -> dict[str, Any]:
    if not isinstance(recipe, Mapping) or "methods" not in recipe or recipe.keys() - {"methods", "hard_weight"}:
        raise ValueError(
            "Each recipe of a choice must have methods and optionally a hard_weight, because all learn from one "
            f"recording, but received {name!r}: {recipe!r}."
        )
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ValueError(
            f"The name of a recipe is a part of the names of its runs, but received {name!r}. Use letters, digits and "
            "the signs - _ and ."
        )
    return {**recipe, "methods": as_texts(recipe["methods"])}


def load_labeled_images(request: dict[str, Any], candidates: Sequence[str]) -> Images:
    """The images of a request, after its devices are set up.

    Raises:
        ValueError: if there are several workers, the optimizer or the learning rates are not for new networks without a
            teacher, or the images are not labeled images of classes to train and to test on.
    """
    recipe = make_recipe(**request)
    if recipe.strategy == "multiworker" or distribute.worker_rank()[1] > 1:
        raise ValueError("A choice runs in one process, but received several workers. Start it without a cluster.")
    if recipe.optimizer == "dot":
        raise ValueError("A choice trains a baseline without a teacher, which the optimizer 'dot' cannot. Use sgd.")
    for name in candidates:
        check_fine_tuning(name, None, recipe)
    devices.local_strategy(recipe)  # before TensorFlow runs its first operation
    images = load_images(recipe)
    require_classification("choose", images.task)
    if images.test is None or images.train.classes is None:
        raise ValueError(
            "A choice needs labeled images to train and to test on. Pass data= and test_data= with labels."
        )
    return images
