"""Demands that hold and that do not."""

import math

import pytest

from kd_keras.evaluation import check_requirements
from kd_keras.evaluation.verdict import ABOUT

TEACHER = {"accuracy": 0.98, "milliseconds": 8.0, "kilobytes": 1000.0, "parameters": 1000, "macs": 500, "mce": 1.0}
STUDENT = {"accuracy": 0.97, "milliseconds": 2.0, "kilobytes": 100.0, "parameters": 50, "macs": 250, "mce": 1.2}
STUDENT |= {"agreement": 0.9, "ece": 0.03, "auroc_probability": 0.8}
FOUND = {"min_accuracy": 0.97, "max_accuracy_drop": 0.01, "min_agreement": 0.9, "max_ece": 0.03, "max_mce": 1.2}
FOUND |= {"min_auroc": 0.8, "max_latency_ratio": 0.25, "max_size_ratio": 0.1, "max_parameters_ratio": 0.05}
FOUND |= {"max_macs_ratio": 0.5}


@pytest.mark.parametrize("name", ABOUT)
def test_a_demand_holds_up_to_its_limit_and_no_further(name):
    strict = 1.001 if name.startswith("min") else 0.999
    kept, missed = (check_requirements({name: FOUND[name] * by}, STUDENT, TEACHER)[0] for by in (1, strict))
    assert kept.found == pytest.approx(FOUND[name]) and kept.holds and kept.text.startswith(f"PASS  {name}")
    assert not missed.holds and missed.text.startswith(f"FAIL  {name}") and f"found {FOUND[name]:g}" in missed.text


def test_a_better_student_has_a_drop_below_zero():
    better = check_requirements({"max_accuracy_drop": 0.0}, {"accuracy": 0.99}, {"accuracy": 0.98})[0]
    assert better.holds and better.found == pytest.approx(-0.01)


def test_the_interval_of_a_drop_stands_beside_and_does_not_judge():
    given = {"accuracy": 0.97, "difference_low": -0.03, "difference_high": 0.01}
    found = check_requirements({"max_accuracy_drop": 0.02}, given, TEACHER)[0]
    assert found.holds and found.text.endswith("found 0.01 (95 %: -0.01 to 0.03)")


def test_what_is_no_number_does_not_hold():
    assert not check_requirements({"max_mce": 2.0}, {"mce": math.nan}, {})[0].holds
    assert not check_requirements({"max_latency_ratio": 2.0}, {"milliseconds": 1.0}, {"milliseconds": 0.0})[0].holds


def test_what_is_refused():
    with pytest.raises(ValueError, match="did you mean min_accuracy"):
        check_requirements({"min_acuracy": 0.9}, STUDENT, TEACHER)
    with pytest.raises(ValueError, match="student's 'ece', for max_ece"):
        check_requirements({"max_ece": 0.1}, {"accuracy": 1.0}, TEACHER)
    with pytest.raises(ValueError, match="teacher's 'kilobytes'"):
        check_requirements({"max_size_ratio": 0.1}, STUDENT, {"accuracy": 1.0})
