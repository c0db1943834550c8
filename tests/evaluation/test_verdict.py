"""Requirements that are met and that are not."""

import math

import pytest

from kd_keras.evaluation import Verdict, check_requirements
from kd_keras.evaluation.verdict import REQUIREMENTS, check_limits

TEACHER = {"accuracy": 0.98, "milliseconds": 8.0, "kilobytes": 1000.0, "parameters": 1000, "macs": 500, "mce": 1.0}
TEACHER |= {"ap": 0.5, "miou": 0.6, "verification_accuracy": 0.95}
STUDENT = {"accuracy": 0.97, "milliseconds": 2.0, "kilobytes": 100.0, "parameters": 50, "macs": 250, "mce": 1.2}
STUDENT |= {"agreement": 0.9, "ece": 0.03, "auroc_probability": 0.8, "ap": 0.4}
STUDENT |= {"miou": 0.4, "verification_accuracy": 0.9}
MEASURED = {"min_accuracy": 0.97, "max_accuracy_drop": 0.01, "min_agreement": 0.9, "max_ece": 0.03, "max_mce": 1.2}
MEASURED |= {"min_auroc": 0.8, "max_latency_ratio": 0.25, "max_size_ratio": 0.1, "max_parameters_ratio": 0.05}
MEASURED |= {"max_macs_ratio": 0.5, "min_ap": 0.4, "max_ap_drop": 0.1}
MEASURED |= {"min_miou": 0.4, "max_miou_drop": 0.2}
MEASURED |= {"min_verification_accuracy": 0.9, "max_verification_accuracy_drop": 0.05}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_requirement_is_met_up_to_its_limit_and_no_further(name):
    strict = 1.001 if name.startswith("min") else 0.999
    met, missed = (check_requirements({name: MEASURED[name] * by}, STUDENT, TEACHER)[0] for by in (1, strict))
    assert met.value == pytest.approx(MEASURED[name]) and met.passed and met.text.startswith(f"PASS  {name}")
    assert (
        not missed.passed and missed.text.startswith(f"FAIL  {name}") and f"measured {MEASURED[name]:g}" in missed.text
    )
    assert Verdict((met,)).passed and not Verdict((met, missed)).passed and str(Verdict((met,))) == met.text


def test_a_better_student_has_a_drop_below_zero():
    better = check_requirements({"max_accuracy_drop": 0.0}, {"accuracy": 0.99}, {"accuracy": 0.98})[0]
    assert better.passed and better.value == pytest.approx(-0.01)


def test_the_interval_of_a_drop_is_shown_and_does_not_decide():
    student = {"accuracy": 0.97, "difference_low": -0.03, "difference_high": 0.01}
    requirement = check_requirements({"max_accuracy_drop": 0.02}, student, TEACHER)[0]
    assert requirement.passed and requirement.text.endswith("measured 0.01 (95 %: -0.01 to 0.03)")


def test_a_value_that_is_not_a_number_does_not_pass():
    assert not check_requirements({"max_mce": 2.0}, {"mce": math.nan}, {})[0].passed
    assert not check_requirements({"max_latency_ratio": 2.0}, {"milliseconds": 1.0}, {"milliseconds": 0.0})[0].passed


def test_unknown_requirements_and_missing_findings_are_errors():
    with pytest.raises(ValueError, match="did you mean min_accuracy"):
        check_requirements({"min_acuracy": 0.9}, STUDENT, TEACHER)
    with pytest.raises(ValueError, match="'max_ece' needs the student's finding 'ece'"):
        check_requirements({"max_ece": 0.1}, {"accuracy": 1.0}, TEACHER)
    with pytest.raises(ValueError, match="teacher's finding 'kilobytes'"):
        check_requirements({"max_size_ratio": 0.1}, STUDENT, {"accuracy": 1.0})


def test_requirements_are_checked_before_an_evaluation():
    check_limits({"min_accuracy": 0.9}, has_teacher=False)
    check_limits({"max_accuracy_drop": 0.0}, has_teacher=True)
    with pytest.raises(ValueError, match="'max_latency_ratio' compares a model with its teacher.* Pass teacher="):
        check_limits({"min_accuracy": 0.9, "max_latency_ratio": 1.0}, has_teacher=False)
    with pytest.raises(ValueError, match="'min_acuracy' is not a requirement: did you mean"):
        check_limits({"min_acuracy": 0.9}, has_teacher=True)
