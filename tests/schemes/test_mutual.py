"""Deep mutual learning: the peers and their files, resuming, a teacher in addition, and several replicas."""

import keras
import numpy as np
import pytest

import kd_keras as kd
from kd_keras import data, schemes

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]
PEERS = ["mlp(hidden=(8,))", "mlp(hidden=(6,), dropout=0.5)"]


def load(outcome):
    return [keras.saving.load_model(file) for file in outcome.files]


def assert_equal(first, second, atol=0.0):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    return schemes.train_peers(peers=PEERS, **small, shift=1, run=tmp_path_factory.mktemp("mutual") / "run")


def test_every_peer_is_saved_with_its_accuracy_and_the_model_is_their_ensemble(trained, small):
    examples = list(data.load("digits", "test[:64]", small["data_dir"]).examples.as_numpy_iterator())
    images = np.stack([example["image"] for example in examples]).astype("float32")
    labels = np.array([example["label"] for example in examples])
    probabilities = [np.array(keras.ops.softmax(peer(images)), "float64") for peer in load(trained)]
    accuracies = [(p.argmax(-1) == labels).mean() for p in probabilities]
    recorded = trained.student.result["peers"]
    assert [peer["accuracy"] for peer in recorded] == pytest.approx(accuracies, abs=1e-6)
    assert [peer["model"] for peer in recorded] == PEERS
    together = np.exp(np.array(trained.student.model()(images), "float64"))
    np.testing.assert_allclose(together, sum(probabilities) / 2, atol=1e-6)
    ensemble = trained.student.result["last"]["val_accuracy"]
    assert ensemble == pytest.approx((together.argmax(-1) == labels).mean(), abs=1e-6)
    lines = trained.lines()
    assert len(lines) == 4 and lines[2] == f"Mean of the peers: accuracy {np.mean(accuracies):.4f}"


def test_the_page_names_the_program_that_repeats_the_run(trained, tmp_path):
    kd.evaluate([trained.student], report=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"python -m experiments.scheme --run=NEW --flagfile={trained.student.path / 'flags.txt'}" in page


def test_an_interrupted_run_resumes_with_all_peers(trained, small, tmp_path, interrupt):
    patch = interrupt("stopped")
    with pytest.raises(KeyboardInterrupt):
        schemes.train_peers(peers=PEERS, **small, shift=1, run=tmp_path / "stopped")
    patch.undo()
    resumed = schemes.train_peers(peers=PEERS, **small, shift=1, run=tmp_path / "stopped")
    for whole, again in zip(load(trained), load(resumed), strict=True):
        assert_equal(whole, again)
    assert resumed.student.history["dml"] == trained.student.history["dml"]


def test_one_replica_equals_two(small, tmp_path):
    peers, batches = ["mlp(hidden=(8,))", "mlp(hidden=(6,))"], {**small, "batch_size": 24}  # the last batch has 16
    one = schemes.train_peers(peers=peers, **batches, run=tmp_path / "one")
    two = schemes.train_peers(peers=peers, **batches, strategy="mirrored", devices=2, run=tmp_path / "two")
    for single, divided in zip(load(one), load(two), strict=True):
        assert_equal(single, divided, atol=1e-5)


def test_equal_peers_start_from_different_weights(small, tmp_path):
    options = {**small, "learning_rate": 0.0, "epochs": 1}
    both = schemes.train_peers(peers=["mlp(hidden=(8,))"] * 2, **options, run=tmp_path / "peers")
    alone = [kd.train(model="mlp(hidden=(8,))", **options, seed=seed, run=tmp_path / str(seed)) for seed in (0, 1)]
    for peer, run in zip(load(both), alone, strict=True):
        assert_equal(peer, run.model())


def test_a_teacher_in_addition(teacher, small, tmp_path):
    options = {"peers": PEERS, "teacher": teacher, "teacher_weight": 0.5, **small}
    outcome = schemes.train_peers(**options, run=tmp_path / "run")
    assert {"dml", "kd", "loss"} <= set(outcome.student.history)
    assert outcome.student.settings["teacher"] == str(teacher.path)
    assert outcome.student.settings["teacher_weight"] == "0.5"


def test_invalid_requests_are_refused(small, tmp_path):
    wrong = [
        ({"peers": ["mlp"]}, "two or more"), ({"peers": "mlp"}, "list of models"), ({"peers": ["mlq"] * 2}, "models"),
        ({"temperature": 0}, "temperature"), ({"teacher": 3}, "A teacher must be"), ({"weights": "a.keras"}, "weights"),
        ({"teacher_weight": 7.0}, "received none"), ({"combine": "logits"}, "received none"),
    ]  # fmt: skip
    for options, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            schemes.train_peers(**{"peers": PEERS, **small, **options}, run=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_label_smoothing_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="label_smoothing=0.1 has no effect on peers"):
        schemes.train_peers(peers=PEERS, **small, label_smoothing=0.1, run=tmp_path / "run")
