import pytest

from kd_keras.errors import check_number, check_whole_number, explain_mismatch, suggest


def test_a_message_says_what_was_expected_what_was_received_and_what_to_do():
    assert explain_mismatch("a", "b", "try c") == "Expected a, but received b. Try c."
    assert explain_mismatch("a", "b") == "Expected a, but received b."
    assert explain_mismatch("a", "b", "did you mean c?") == "Expected a, but received b. Did you mean c?"


def test_an_unknown_name_is_answered_with_the_closest_or_with_all():
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
