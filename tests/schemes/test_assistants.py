"""Teacher assistants: the chain of runs, resuming, dense guidance, and the sizes of the default assistants."""

import numpy as np
import pytest

import kd_keras as kd
from kd_keras import models, schemes
from kd_keras.schemes.assistants import halving_path

ASSISTANTS = ["mlp(hidden=(12,))", "mlp(hidden=(8,))"]
ONE = ASSISTANTS[:1]

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]


def chain(teacher, small, run, **options):
    arguments = {"assistants": ONE, "student": "mlp(hidden=(4,))", **small, **options}
    return schemes.distill_by_assistants(teacher=teacher, **arguments, run=run)


def weights(outcome):
    return [array for run in outcome.runs for array in run.model().get_weights()]


def test_every_link_is_a_distillation_from_the_network_before(teacher, small, tmp_path):
    options = {"assistants": ASSISTANTS, "methods": ["kd(temperature=2)"], "hard_weight": 0.5}
    outcome = chain(teacher, small, tmp_path / "chain", **options)
    assert [run.path.name for run in outcome.runs] == ["1-mlp", "2-mlp", "3-mlp"]
    assert [run.settings["student"] for run in outcome.runs] == [*ASSISTANTS, "mlp(hidden=(4,))"]
    before = [teacher, *outcome.runs[:-1]]
    assert [run.settings["teacher"] for run in outcome.runs] == [str(run.path) for run in before]
    # The last link equals a plain distillation from the last assistant.
    alone = kd.distill(
        teacher=outcome.runs[1], student="mlp(hidden=(4,))", methods=["kd(temperature=2)"], hard_weight=0.5, **small,
        run=tmp_path / "alone",
    )  # fmt: skip
    for a, b in zip(alone.model().get_weights(), outcome.student.model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(outcome.lines()) == 3 and "parameters, accuracy" in outcome.lines()[0]


def test_an_interrupted_scheme_resumes_and_equals_a_whole_one(teacher, small, tmp_path, interrupt):
    whole = chain(teacher, small, tmp_path / "whole", shift=1)
    patch = interrupt("2-mlp")
    with pytest.raises(KeyboardInterrupt):
        chain(teacher, small, tmp_path / "stopped", shift=1)
    patch.undo()
    first, second = (kd.Run(tmp_path / "stopped" / name) for name in ("1-mlp", "2-mlp"))
    assert first.is_complete and not second.is_complete and list((second.path / "checkpoint").iterdir())
    written = (first.path / "model.keras").stat().st_mtime_ns
    resumed = chain(teacher, small, tmp_path / "stopped", shift=1)
    assert (first.path / "model.keras").stat().st_mtime_ns == written
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_with_dense_guidance_every_network_learns_from_all_before(teacher, small, tmp_path):
    outcome = chain(teacher, small, tmp_path / "dense", assistants=ASSISTANTS, dense=True)
    paths = [str(run.path) for run in (teacher, *outcome.runs)]
    assert [run.settings["teacher"] for run in outcome.runs] == [paths[0], paths[:2], paths[:3]]
    assert outcome.student.settings["method"] == "dgkd" and "dgkd" in outcome.student.history
    assert outcome.student.result["hard_weight"] == 0.1


def test_options_of_the_teacher_concern_the_first_link_only(teacher, small, tmp_path):
    outcome = chain(teacher, small, tmp_path / "chain", teacher_precision="float32")
    assert [run.settings.get("teacher_precision") for run in outcome.runs] == ["float32", None]


def test_what_does_not_make_a_chain_is_refused(teacher, small, tmp_path):
    wrong = [
        ({"assistants": []}, "at least one assistant"),
        ({"assistants": None}, "between the teacher"),
        ({"assistants": ["mlq"]}, "models of the zoo"),
        ({"weights": "some.keras"}, "takes no weights"),
        ({"dense": True, "teacher_range": (0, 1)}, "takes no teacher_range"),
        ({"methods": "kd"}, "must be a list"),
        ({"methods": [kd.methods.KD(weight=lambda step: 1.0)]}, "as texts"),
        ({"teacher": [teacher]}, "The teacher must be"),
    ]
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            chain(**{"teacher": teacher, "small": small, "run": tmp_path / "run", **options})
        assert not (tmp_path / "run").exists()


def test_another_request_in_the_same_directory_is_refused(teacher, small, tmp_path):
    chain(teacher, small, tmp_path / "chain")
    with pytest.raises(ValueError, match="has other settings"):
        chain(teacher, small, tmp_path / "chain", assistants=ASSISTANTS[1:])


def test_the_default_assistants_halve_the_parameters():
    # Halves of 1000: 500, 250, 125; the nearest by the ratio: 510, then 200 (250/200 < 330/250), then 100 (125/100).
    counts = {"a": 1200, "b": 1000, "c": 510, "d": 330, "e": 200, "f": 100, "g": 90}
    assert halving_path(counts, largest=1000, smallest=90) == ["c", "e", "f"]
    assert halving_path({"a": 50}, largest=100, smallest=60) == []
    # Of WRN-40-2's 2.2 million parameters, the halves 1.1 and 0.56 million; WRN-16-1 has 0.17 million.
    teacher = models.build("wrn_40_2", (8, 8, 1), 10)
    assert schemes.choose_assistants(teacher, "wrn_16_1") == ["wrn_16_2", "wrn_40_1"]
    teacher = models.build("resnet50_imagenet", (96, 96, 3), 10)
    assert schemes.choose_assistants(teacher, "resnet18_imagenet") == ["resnet34_imagenet"]
    with pytest.raises(ValueError, match="between the teacher"):
        schemes.choose_assistants(models.build("wrn_16_1", (8, 8, 1), 10), "wrn_16_2")
