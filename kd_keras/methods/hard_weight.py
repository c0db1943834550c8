"""The weight of the hard loss that the published settings of several methods agree on."""

from __future__ import annotations

from collections.abc import Sequence

from kd_keras.methods.base import Method

__all__ = ("agreed_hard_weight",)


def agreed_hard_weight(methods: Sequence[Method]) -> tuple[float, str]:
    """The weight of the hard loss that the settings of all methods share, and the reason for it.

    Args:
        methods: the methods of a Distiller.

    Returns:
        The published hard weight if all methods agree on it, else 1.0; and a phrase for the log.

    >>> class Guided(Method):
    ...     published_hard_weight = 0.1
    >>> agreed_hard_weight([Guided()])
    (0.1, 'published with guided')
    >>> agreed_hard_weight([Guided(), Method()])
    (1.0, 'the default, as the published weights differ: 0.1 with guided, none with method')
    """
    if not methods:
        return 1.0, "the default, as there is no method"
    weights = {float(method.published_hard_weight) for method in methods}
    stated = [method.name for method in methods if _states_hard_weight(method)]
    if len(weights) == 1:
        unstated = ", ".join(method.name for method in methods if method.name not in stated)
        reason = f"published with {', '.join(stated)}"
        return weights.pop(), f"the default, as none was published with {unstated}" if unstated else reason
    published = ", ".join(
        f"{method.published_hard_weight:g} with {method.name}" if method.name in stated else f"none with {method.name}"
        for method in methods
    )
    return 1.0, f"the default, as the published weights differ: {published}"


def _states_hard_weight(method: Method) -> bool:
    """Whether a method or its class states a published setting of its own, instead of the defaults of `Method`."""
    kinds = type(method).__mro__
    stated = {name for owner in (method, *kinds[: kinds.index(Method)]) for name in vars(owner)}
    return not stated.isdisjoint(("default_weight", "published_hard_weight"))
