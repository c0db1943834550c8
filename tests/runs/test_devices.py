"""What a run says of the processor that it trains on."""

import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras.runs.devices import _lacks_bfloat16

BFLOAT16_IS_EMULATED = _lacks_bfloat16() and not tf.config.list_physical_devices("GPU")


@pytest.mark.parametrize(
    "text, lacks",
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\nbugs\t\t: \n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", False),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("processor\t: 0\nCPU architecture: 8\n", False),
    ],
)
def test_the_instructions_of_a_processor(text, lacks, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert _lacks_bfloat16(tmp_path / "cpuinfo") == lacks


def test_a_processor_that_cannot_be_asked(tmp_path):
    assert not _lacks_bfloat16(tmp_path / "nothing")


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_training_in_bfloat16_warns_where_it_is_emulated(precision, data_dir, caplog, tmp_path):
    small = {"data": "digits", "data_dir": data_dir.partition("=")[2], "train_split": "train[:64]", "epochs": 1}
    kd.train(model="mlp(hidden=(4,))", precision=precision, test_every=1, **small, run=tmp_path / "run")
    assert ("no instructions for bfloat16" in caplog.text) == (precision != "float32" and BFLOAT16_IS_EMULATED)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_teacher_in_bfloat16_warns_where_it_is_emulated(precision, data_dir, caplog, tmp_path):
    small = {"data": "digits", "data_dir": data_dir.partition("=")[2], "train_split": "train[:64]", "epochs": 1}
    teacher = kd.models.build("mlp", (8, 8, 1), 10, hidden=(4,))
    kd.distill(
        teacher=teacher,
        student="mlp(hidden=(4,))",
        methods=["kd"],
        teacher_precision=precision,
        test_every=1,
        **small,
        run=tmp_path / "run",
    )
    emulated = precision == "bfloat16" and BFLOAT16_IS_EMULATED
    assert ("no instructions for bfloat16: teacher_precision=bfloat16" in caplog.text) == emulated
