"""The text forms of methods, weights and normalizations."""

import pytest

from kd_keras.methods import KD, FitNet
from kd_keras.runs.methods import method_text
from kd_keras.runs.parsing import parse_method, parse_normalization, parse_weight


def test_methods_from_text():
    assert isinstance(parse_method("kd"), KD) and isinstance(parse_method("fitnet()"), FitNet)
    assert parse_method("fitnet(student_tap='a/b', weight=3)").taps.student == ("a/b",)
    hosted = parse_method("lskd(host=kd(temperature=3))", examples=5)
    assert hosted.host.temperature == 3 and parse_method("crd", examples=5).examples == 5
    assert parse_method("crd(examples=None)", examples=5).examples is None


def test_a_wrong_method_is_refused_with_the_closest_name():
    with pytest.raises(ValueError, match="did you mean dkd"):
        parse_method("lskd(host=dkdd())")
    with pytest.raises(ValueError, match="did you mean temperature"):
        parse_method("kd(temprature=3)")


OWN = """
import keras
from kd_keras.methods.base import TapPairMethod, Taps

def half(value):
    return value / 2

class Cosine(TapPairMethod):
    taps = Taps(("embedding",), ("embedding",))

    def __init__(self, power=1.0, **options):
        super().__init__(**options)
        self.power = power

    def call(self, student, teacher, batch, step):
        (a,), (b,) = self.tensors(student, teacher)
        return half(1 - keras.ops.sum(keras.ops.normalize(a) * keras.ops.normalize(b), -1))
"""


def test_a_method_of_a_file_of_ones_own(tmp_path):
    file = tmp_path / "my_methods.py"
    file.write_text(OWN)
    first, second = parse_method(f"{file}:Cosine(weight=2, power=3)"), parse_method(f"{file}:Cosine")
    assert (first.weight, first.power, first.name) == (2.0, 3, "cosine") and type(first) is type(second)
    assert parse_method(f"lskd(host={KD.__name__.lower()}())").host.name == "kd"
    for text, message in (
        (f"{file}:Cosin", "did you mean Cosine"),
        (f"{file}:Cosine(powr=1)", "did you mean power"),
        (f"{tmp_path}/nowhere.py:Cosine", "there is no file"),
        (f"{tmp_path}:Cosine", "FILE.py:CLASS"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_method(text)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(ValueError, match="broken.py cannot be run. Python reports ModuleNotFoundError"):
        parse_method(f"{tmp_path / 'broken.py'}:Cosine")


@pytest.mark.parametrize(
    "text", ["kd(4)", "kd(**{})", "kd(weight=__import__('os'))", "kd(", "kd)", "kd(temperature=4) or 1"]
)
def test_nothing_but_literals_is_read(text):
    with pytest.raises(ValueError, match="literal"):
        parse_method(text)


@pytest.mark.parametrize("text", ["-1", "much", "{0: 'a'}"])
def test_a_wrong_weight_is_refused(text):
    with pytest.raises(ValueError, match="hard_weight"):
        parse_weight(text, "hard_weight")


@pytest.mark.parametrize("value", ["fitted", "((1, 2), (1,))", ((1.0,), (0.0,)), 3])
def test_a_wrong_normalization_is_refused(value):
    with pytest.raises(ValueError, match="normalization"):
        parse_normalization(value)


@pytest.mark.parametrize("text", ["kd(temperature=2.0)", "at", "crd(examples=40, negatives=16)", "fitnet(weight=3.0)"])
def test_a_method_becomes_the_text_that_makes_it(text):
    assert method_text(parse_method(text)) == text
    assert parse_method(method_text(parse_method(text))).get_config() == parse_method(text).get_config()


def test_a_method_without_a_text():
    assert method_text(parse_method("kd(weight={0: 1, 3: 0})")) is None
