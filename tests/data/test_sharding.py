"""A dataset of several files that is not kept in memory: who reads what, and that the batches are the same."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data, distribute
from kd_keras.contracts import INDEX, INPUTS
from kd_keras.data import Augmentation
from kd_keras.distribute.slices import BatchSlice
from tests.support import workers

SIZE, FILES, BATCH = 41, 6, 12  # six lanes of two rows; the last batch has 5 rows, one of each lane but the last
OPTIONS = {"batch_size": BATCH, "with_index": True, "cache": False, "augmentation": Augmentation(flip=True)}
pytestmark = pytest.mark.filterwarnings("ignore:.shuffle")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Random images that TFDS's own writer has put into several files."""
    import tensorflow_datasets as tfds

    place = tmp_path_factory.mktemp("datasets")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SIZE, 8, 8, 3)).astype("uint8")
    rows = tf.data.Dataset.from_tensor_slices({"image": images, "label": np.arange(SIZE) % 5})
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=5)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="several_files",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows.take(SIZE), "test": rows.take(SIZE)},
        data_dir=str(place),
        download_config=tfds.download.DownloadConfig(num_shards=FILES),
    )
    return place


def source(place, split="train"):
    return data.load("several_files", split, str(place))


def indices(batches):
    return [np.array(x[INDEX]) for x, _ in batches]


def test_a_source_is_read_in_parts(place):
    whole = source(place, "test+train[5:33]")
    assert whole.files > 1
    expected = [(int(one["index"]), one["image"].numpy()) for one in whole.examples]
    found = [(int(one["index"]), one["image"].numpy()) for lane in whole.lanes(4) for one in lane.examples]
    assert [index for index, _ in found] == list(range(whole.size)) == [index for index, _ in expected]
    np.testing.assert_array_equal([image for _, image in found], [image for _, image in expected])
    with pytest.raises(ValueError, match="can be read in parts"):
        whole.lanes(1000)


@pytest.mark.parametrize("total, count, drop", [(3, 1, False), (4, 2, False), (2, 1, True)], ids=str)
def test_workers_that_read_their_own_files_have_the_same_batches(place, total, count, drop):
    images, options = source(place), {**OPTIONS, "drop_remainder": drop}
    steps = data.steps_per_epoch(images, BATCH, drop)
    whole = list(data.training(images, epochs=2, **options))
    shares = [
        list(data.training(images, epochs=2, share=BatchSlice(first, count, total), sharding="file", **options))
        for first in range(0, total, count)
    ]
    assert len(whole) == 2 * steps and all(len(each) == 2 * steps * count for each in shares)
    for number, (x, y) in enumerate(whole):
        parts = [part for each in shares for part in each[number * count : (number + 1) * count]]
        assert all(len(y) > 0 for _, y in parts)
        joined = [np.concatenate(each) for each in zip(*((x[INDEX], x[INPUTS], y) for x, y in parts))]
        order, expected = np.argsort(joined[0]), np.argsort(x[INDEX])
        for ours, theirs in zip(joined, (x[INDEX], x[INPUTS], y)):
            np.testing.assert_array_equal(ours[order], theirs.numpy()[expected])
    for epoch in range(2):
        seen = sorted(np.concatenate(indices(whole[epoch * steps : (epoch + 1) * steps])))
        assert seen == list(range(SIZE)) if not drop else len(set(seen)) == steps * BATCH
    first, second = (np.concatenate(indices(whole[e * steps : (e + 1) * steps])) for e in range(2))
    assert list(first) != list(second)  # an order of its own


@pytest.mark.parametrize("share, sharding", [(BatchSlice(), "auto"), (BatchSlice(1, 1, 2), "file")], ids=["one", "two"])
def test_it_can_start_within_an_epoch(place, share, sharding):
    options = {**OPTIONS, "share": share, "sharding": sharding}
    whole = list(data.training(source(place), epochs=3, **options))
    late = list(data.training(source(place), start_epoch=1, start_step=2, epochs=2, **options))
    assert len(late) == len(whole) - 6
    for (ours, _), (expected, _) in zip(late, whole[6:]):
        np.testing.assert_array_equal(ours[INDEX], expected[INDEX])
        np.testing.assert_array_equal(ours[INPUTS], expected[INPUTS])


def test_a_worker_opens_its_own_files_alone(place, monkeypatch):
    """Files that another worker's lanes lie in may be gone."""
    images = source(place)
    for path in sorted((place / "several_files" / "1.0.0").glob("*train*"))[:1]:
        path.rename(f"{path}.gone")
    try:
        own = BatchSlice(1, 1, 2)  # lanes 1, 3 and 5; a lane that begins within a file opens that file too
        assert len(list(data.training(images, epochs=1, share=own, sharding="file", **OPTIONS))) == 4
        with pytest.raises(tf.errors.NotFoundError):
            list(data.training(images, epochs=1, share=own, sharding="data", **OPTIONS))
    finally:
        for path in (place / "several_files" / "1.0.0").glob("*.gone"):
            path.rename(str(path).removesuffix(".gone"))


def test_what_cannot_be_shared_out_by_file(place):
    images = source(place)
    for options, came in (
        ({"share": BatchSlice(0, 1, 4)}, "6 lanes for 4"),
        ({"share": BatchSlice(0, 1, 2), "cache": True}, "1 lanes for 2"),
        ({"share": BatchSlice(0, 1, 2), "augmentation": Augmentation(mixup=1.0)}, "1 lanes for 2"),
        ({"share": BatchSlice(0, 1, 2), "shuffle": False}, "1 lanes for 2"),
    ):
        with pytest.raises(ValueError, match=came):
            data.training(images, **{**OPTIONS, **options}, sharding="file")
        data.training(images, **{**OPTIONS, **options})  # "auto"
    with pytest.raises(ValueError, match="did you mean file"):
        data.training(images, **OPTIONS, sharding="files")


def main(place, output):
    """In a worker: the examples of two epochs as this worker's replica gets them."""
    strategy = distribute.strategy()
    make = {**OPTIONS, "epochs": 2, "sharding": "file"}
    batches = distribute.batches(strategy, lambda share: data.training(source(place), share=share, **make))
    mine = strategy.experimental_local_results
    seen = [np.array(mine(x[INDEX])[0]).tolist() for x, _ in batches]
    with open(output, "w") as file:
        json.dump(seen, file)


def test_two_workers_see_every_example_once_an_epoch(place, tmp_path):
    both = workers.start(2, "-m", "tests.data.test_sharding", place, tmp_path / "{index}.json")
    codes, _, errors = workers.finish(both)
    assert codes == [0, 0], errors[0][-3000:]
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    whole = indices(data.training(source(place), epochs=2, **OPTIONS))
    assert len(first) == len(second) == len(whole) == 8
    for ours, theirs, expected in zip(first, second, whole):
        assert ours and theirs and sorted(ours + theirs) == sorted(expected)
    for epoch in (slice(0, 4), slice(4, 8)):
        assert sorted(index for each in (*first[epoch], *second[epoch]) for index in each) == list(range(SIZE))


if __name__ == "__main__":
    main(*sys.argv[1:])
