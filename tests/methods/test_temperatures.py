"""Every method that takes a temperature refuses one that is not above 0."""

import inspect

import pytest

from kd_keras import methods

NAMES = ("temperature", "temperatures")
TAKING = {
    name: parameter
    for name in dir(methods)
    if inspect.isclass(method := getattr(methods, name)) and issubclass(method, methods.Method)
    for parameter in NAMES
    if parameter in inspect.signature(method).parameters
}
BOUNDS = [("CTKD", "start"), ("CTKD", "end")]  # of its temperature


def test_the_methods_with_a_temperature_are_found():
    assert {"KD", "DKD", "MLKD", "CRD", "DIST"} <= set(TAKING)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name, parameter", [*TAKING.items(), *BOUNDS])
def test_a_temperature_that_is_not_above_zero_is_refused(name, parameter, value):
    given = (value,) if parameter == "temperatures" else value
    required = {"CRD": {"examples": 40}, "CIRKD": {"classes": 4}}.get(name, {})
    with pytest.raises(ValueError, match=rf"{name}\({parameter}=...\) must be (greater than 0|finite)"):
        getattr(methods, name)(**{parameter: given}, **required)
