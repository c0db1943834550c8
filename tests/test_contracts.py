import numpy as np

from kd_keras.contracts import INDEX, INPUTS, RECORDED, as_batch

X, Y, W = np.ones((2, 3)), np.zeros(2), np.ones(2)


def test_every_form_of_data_that_keras_passes_to_a_step():
    only_x, labeled = (X, None, None), (X, Y, None)
    for data, expected in [(X, only_x), ((X,), only_x), ((X, Y), labeled), ((X, Y, W), (X, Y, W))]:
        batch = as_batch(data)
        assert (batch.inputs is expected[0], batch.label is expected[1], batch.weight is expected[2]) == (True,) * 3
        assert batch.index is None and batch.recorded is None


def test_reserved_keys_are_removed_from_the_inputs():
    batch = as_batch(({INPUTS: X, INDEX: Y, RECORDED: {"logits": W}}, Y))
    assert batch.inputs is X and batch.index is Y and batch.recorded["logits"] is W


def test_a_dictionary_of_named_inputs_stays_one():
    assert as_batch(({"a": X, "b": Y},)).inputs.keys() == {"a", "b"}
    batch = as_batch(({"a": X, "b": Y, INDEX: W},))
    assert batch.inputs.keys() == {"a", "b"} and batch.index is W
