"""Batches with several images of each identity: a permutation that depends only on (seed, epoch)."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data
from kd_keras.contracts import INDEX
from kd_keras.data import Augmentation, Source
from kd_keras.data.identity_order import IdentityOrder
from kd_keras.distribute.slices import BatchSlice

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5, 7, 9], [10, 4, 3, 9, 2, 8]))  # 36 images


def people(labels=LABELS, **options):
    labels = np.asarray(labels, np.int64)
    columns = {"image": np.zeros((len(labels), 4, 4, 1), "uint8"), "index": np.arange(len(labels)), "label": labels}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "people", len(labels), 10, None, (4, 4, 1), **options)


def batches(count, **options):
    """The example numbers of the next batches."""
    options = {"batch_size": 8, "images_per_identity": 4, "with_index": True, "seed": 3} | options
    read = itertools.islice(data.training(people(), **options).as_numpy_iterator(), count)
    return [x[INDEX].tolist() for x, _ in read]


@pytest.mark.parametrize("images", [2, 3, 4, 20])
def test_an_epoch_is_a_permutation_in_groups_of_one_identity(images):
    order = IdentityOrder(LABELS, images, "people")(tf.constant([5, 6], tf.int64)).numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(len(LABELS)))
    runs = [(label, len(list(rows))) for label, rows in itertools.groupby(LABELS[order])]
    for label, length in runs:  # two groups of one identity may follow each other, and then look like one
        assert length >= min(images, (LABELS == label).sum())
    assert max(length for _, length in runs) > 1


def test_every_batch_of_every_epoch_has_genuine_and_impostor_pairs():
    read = batches(10)  # two epochs of five batches
    assert [len(batch) for batch in read] == [8, 8, 8, 8, 4] * 2
    for epoch in (read[:5], read[5:]):
        assert sorted(itertools.chain(*epoch)) == list(range(36))
    for batch in read:
        identities = LABELS[batch]
        assert len(set(identities)) < len(identities)
    assert sum(len(set(LABELS[batch])) > 1 for batch in read) >= 8


def test_groups_change_from_epoch_to_epoch():
    first, second = batches(5), batches(10)[5:]
    assert first != second
    together = [
        {frozenset(pair) for batch in epoch for pair in itertools.combinations(batch, 2)} for epoch in (first, second)
    ]
    genuine = [{pair for pair in pairs if len({LABELS[i] for i in pair}) == 1} for pairs in together]
    assert genuine[0] != genuine[1]


def test_the_order_depends_only_on_seed_and_epoch():
    expected = batches(10)
    tf.random.set_seed(99)
    assert batches(10) == expected
    assert batches(3, start_epoch=1, start_step=2) == expected[7:]
    assert batches(5, seed=4) != expected[:5]


def test_replicas_divide_the_same_batches():
    expected = batches(5)
    for number in range(2):
        slices = batches(5, batch_slice=BatchSlice(number, 1, 2))
        assert slices == [batch[number * len(batch) // 2 : (number + 1) * len(batch) // 2] for batch in expected]


def test_groups_are_drawn_evenly():
    """Each pair of the four images of an identity is equally often in one of its two groups: in 1 of 3 epochs."""
    order = tf.function(IdentityOrder(np.array([0, 0, 0, 0, 1, 1]), 2, "people").__call__)
    together, epochs = np.zeros((4, 4)), 600
    for epoch in range(epochs):
        rows = [row for row in order(tf.constant([epoch, 0], tf.int64)).numpy().tolist() if row < 4]
        for pair in (rows[:2], rows[2:]):
            together[min(pair), max(pair)] += 1
    share = together[np.triu_indices(4, 1)] / epochs
    np.testing.assert_allclose(share, 1 / 3, atol=0.08)  # four standard deviations


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 7}, "batch_size=7, below the 8 images of two identities"),
        ({"shuffle": False}, "shuffle=False"),
        ({"cache": False}, "not kept in memory"),
        ({"augmentation": Augmentation(mixup=1.0)}, "mixup"),
        ({"images_per_identity": 1}, "images_per_identity must be a whole number of at least 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batches(1, **options)


def test_data_without_pairs_are_refused():
    with pytest.raises(
        ValueError, match="an identity with two images in 'people'.* but received 8 identities with one"
    ):
        data.training(people(np.arange(8)), batch_size=8, images_per_identity=2)
    columns = {"image": np.zeros((8, 4, 4, 1), "uint8"), "index": np.arange(8)}
    unlabeled = Source(tf.data.Dataset.from_tensor_slices(columns), "images", 8, None, None, (4, 4, 1))
    with pytest.raises(ValueError, match="one identity each.* labels of the kind None"):
        data.training(unlabeled, batch_size=8, images_per_identity=2)
