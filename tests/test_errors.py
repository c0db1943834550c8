import numpy as np
import pytest

from kd_keras.errors import (
    check_choice,
    check_integer,
    check_integers,
    check_number,
    check_whole_number,
    explain_mismatch,
    shorten,
    suggest,
)


def test_a_message_has_expectation_received_value_and_advice():
    assert explain_mismatch("a", "b", "try c") == "Expected a, but received b. Try c."
    assert explain_mismatch("a", "b") == "Expected a, but received b."
    assert explain_mismatch("a", "b", "did you mean c?") == "Expected a, but received b. Did you mean c?"


def test_the_advice_for_an_unknown_name_is_the_closest_names_or_all():
    assert suggest("resnet21", ["resnet20", "mlp"]) == "did you mean resnet20?"
    assert suggest("zzz", ["b", "a"]) == "choose one of: a, b"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_hyper_parameter_must_be_finite_and_in_range(value):
    with pytest.raises(ValueError, match=r"KD\(temperature=\.\.\.\) must be"):
        check_number("KD", "temperature", value, above=0)


@pytest.mark.parametrize("value", [None, "4", True])
def test_a_hyper_parameter_must_be_a_number(value):
    with pytest.raises(TypeError, match="must be a number"):
        check_number("KD", "temperature", value)


def test_a_whole_number_is_not_rounded():
    assert check_whole_number("CRD", "width", 8.0) == 8
    with pytest.raises(ValueError, match="whole number of at least 1"):
        check_whole_number("CRD", "width", 8.5)


@pytest.mark.parametrize(
    "bound, value, text",
    [
        ({"above": 0}, 0, "greater than 0"),
        ({"least": 1}, 0.5, "at least 1"),
        ({"below": 1}, 1.0, "less than 1"),
        ({"most": 1}, 1.5, "at most 1"),
    ],
)
def test_each_bound_is_named_with_the_value(bound, value, text):
    with pytest.raises(ValueError, match=rf"AT\(power=\.\.\.\) must be {text}, but received {value!r}"):
        check_number("AT", "power", value, **bound)
    name, limit = next(iter(bound.items()))
    inside = {"above": limit + 1, "least": limit, "below": limit - 1, "most": limit}[name]
    assert check_number("AT", "power", inside, **bound) == inside


def test_an_integer_is_not_a_float():
    assert check_integer("SimKD", "reduction", 2, least=1) == 2
    with pytest.raises(TypeError, match=r"SimKD\(reduction=\.\.\.\) must be an integer, but received 2\.0"):
        check_integer("SimKD", "reduction", 2.0)
    with pytest.raises(TypeError, match="True"):
        check_integer("SimKD", "reduction", True)
    with pytest.raises(ValueError, match="at least 1, but received 0"):
        check_integer("SimKD", "reduction", 0, least=1)


def test_a_choice_names_all_choices_and_the_closest():
    assert check_choice("FT", "form", "paper", ("paper", "attention")) == "paper"
    with pytest.raises(
        ValueError, match=r"FT\(form=\.\.\.\) must be 'paper' or 'attention'.*'papper'.*Did you mean paper"
    ):
        check_choice("FT", "form", "papper", ("paper", "attention"))
    with pytest.raises(ValueError, match="'paper' or 'attention', but received None"):
        check_choice("FT", "form", None, ("paper", "attention"))


HUGE = [
    "x" * 10**6,
    10**5000,
    -(10**5000),
    list(range(10**6)),
    {"a": ["b" * 10**5] * 10**3},
    np.zeros(10**6),
    b"x" * 10**6,
]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: type(value).__name__)
def test_a_huge_value_is_not_printed_back_whole(value):
    checks = [
        lambda: check_number("KD", "temperature", value, above=0),
        lambda: check_whole_number("CRD", "width", value, least=10**6000),
        lambda: check_integer("SimKD", "reduction", value, least=10**6000),
        lambda: check_integers("Teacher", "class_order", [value]),
        lambda: check_choice(
            "FT", "form", value if isinstance(value, str) else repr(type(value)), ("paper", "attention")
        ),
    ]
    for check in checks[: 3 if isinstance(value, int) else None]:
        with pytest.raises((TypeError, ValueError)) as caught:
            check()
        assert len(str(caught.value)) < 500, str(caught.value)[:600]
    assert len(shorten(value)) <= 200
    if not isinstance(value, int):
        assert len(explain_mismatch("a", repr(value))) < 1000


@pytest.mark.parametrize("value", ["kd", [1, 2.5], {"a": None}, np.arange(3), -7, ("x", [["y"]])])
def test_a_short_value_is_printed_as_it_is(value):
    assert shorten(value) == " ".join(repr(value).split())
