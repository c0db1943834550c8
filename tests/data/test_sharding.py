"""A dataset of several files that is not kept in memory: each worker reads its shards, and batches are the same."""

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

SIZE, FILES, BATCH = 41, 6, 12  # six shards give two rows each; the last batch has 5, none from the last shard
OPTIONS = {"batch_size": BATCH, "with_index": True, "cache": False, "augmentation": Augmentation(flip=True)}
pytestmark = pytest.mark.filterwarnings("ignore:.shuffle")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory of random images that the writer of TFDS has put into several files."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("datasets")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SIZE, 8, 8, 3)).astype("uint8")
    rows = tf.data.Dataset.from_tensor_slices({"image": images, "label": np.arange(SIZE) % 5})
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=5)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="several_files",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows.take(SIZE), "test": rows.take(SIZE)},
        data_dir=str(directory),
        download_config=tfds.download.DownloadConfig(num_shards=FILES),
    )
    return directory


def source(directory, split="train"):
    return data.load("several_files", split, str(directory))


@pytest.fixture(scope="module")
def whole(directory):
    """The batches of one worker in three epochs."""
    return list(data.training(source(directory), epochs=3, **OPTIONS))


def indices(batches):
    return [np.array(x[INDEX]) for x, _ in batches]


def test_a_source_is_read_by_shards(directory):
    whole = source(directory, "test+train[5:33]")
    assert whole.files > 1
    expected = [(int(one["index"]), one["image"].numpy()) for one in whole.examples]
    read = [(int(one["index"]), one["image"].numpy()) for shard in whole.shards(4) for one in shard.examples]
    assert [index for index, _ in read] == list(range(whole.size)) == [index for index, _ in expected]
    np.testing.assert_array_equal([image for _, image in read], [image for _, image in expected])
    with pytest.raises(ValueError, match="cannot be split into 1000 shards: it has 69 examples"):
        whole.shards(1000)


@pytest.mark.parametrize("total, count, drop", [(3, 1, False), (4, 2, False), (2, 1, True)], ids=str)
def test_workers_that_read_their_own_files_have_the_same_batches(directory, whole, total, count, drop):
    images, options = source(directory), {**OPTIONS, "drop_remainder": drop}
    steps = data.steps_per_epoch(images, BATCH, drop)
    assert len(whole) == 3 * data.steps_per_epoch(images, BATCH)
    whole = list(data.training(images, epochs=2, **options)) if drop else whole[: 2 * steps]
    slices = [
        list(data.training(images, epochs=2, batch_slice=BatchSlice(first, count, total), sharding="file", **options))
        for first in range(0, total, count)
    ]
    assert len(whole) == 2 * steps and all(len(batches) == 2 * steps * count for batches in slices)
    for number, (x, y) in enumerate(whole):
        parts = [part for batches in slices for part in batches[number * count : (number + 1) * count]]
        assert all(len(y) > 0 for _, y in parts)
        columns = zip(*((x[INDEX], x[INPUTS], y) for x, y in parts), strict=True)
        joined = [np.concatenate(column) for column in columns]
        order, expected = np.argsort(joined[0]), np.argsort(x[INDEX])
        for of_workers, of_one in zip(joined, (x[INDEX], x[INPUTS], y), strict=True):
            np.testing.assert_array_equal(of_workers[order], of_one.numpy()[expected])
    for epoch in range(2):
        seen = sorted(np.concatenate(indices(whole[epoch * steps : (epoch + 1) * steps])))
        assert seen == list(range(SIZE)) if not drop else len(set(seen)) == steps * BATCH
    first, second = (np.concatenate(indices(whole[e * steps : (e + 1) * steps])) for e in range(2))
    assert list(first) != list(second)  # each epoch has a new order


ONE, SECOND_OF_TWO = (BatchSlice(), "auto"), (BatchSlice(1, 1, 2), "file")


@pytest.mark.parametrize("batch_slice, sharding", [ONE, SECOND_OF_TWO], ids=["one", "two"])
def test_it_can_start_within_an_epoch(directory, whole, batch_slice, sharding):
    options = {**OPTIONS, "batch_slice": batch_slice, "sharding": sharding}
    if batch_slice.total > 1:
        whole = list(data.training(source(directory), epochs=3, **options))
    late = list(data.training(source(directory), start_epoch=1, start_step=2, epochs=2, **options))
    assert len(late) == len(whole) - 6
    for (x, _), (expected, _) in zip(late, whole[6:], strict=True):
        np.testing.assert_array_equal(x[INDEX], expected[INDEX])
        np.testing.assert_array_equal(x[INPUTS], expected[INPUTS])


def test_a_worker_opens_only_its_own_files(directory, monkeypatch):
    """Files of another worker's shards may be missing."""
    images = source(directory)
    for path in sorted((directory / "several_files" / "1.0.0").glob("*train*"))[:1]:
        path.rename(f"{path}.gone")
    try:
        second = BatchSlice(1, 1, 2)  # shards 1, 3 and 5; a shard that starts within a file opens that file too
        assert len(list(data.training(images, epochs=1, batch_slice=second, sharding="file", **OPTIONS))) == 4
        with pytest.raises(tf.errors.NotFoundError):
            list(data.training(images, epochs=1, batch_slice=second, sharding="data", **OPTIONS))
    finally:
        for path in (directory / "several_files" / "1.0.0").glob("*.gone"):
            path.rename(str(path).removesuffix(".gone"))


def test_sharding_by_file_is_rejected_if_it_is_not_possible(directory):
    images = source(directory)
    for options, message in (
        ({"batch_slice": BatchSlice(0, 1, 4)}, "6 shards for 4 workers"),
        ({"batch_slice": BatchSlice(0, 1, 2), "cache": True}, "1 shards for 2 workers"),
        ({"batch_slice": BatchSlice(0, 1, 2), "augmentation": Augmentation(mixup=1.0)}, "1 shards for 2 workers"),
        ({"batch_slice": BatchSlice(0, 1, 2), "shuffle": False}, "1 shards for 2 workers"),
    ):
        with pytest.raises(ValueError, match=message):
            data.training(images, **{**OPTIONS, **options}, sharding="file")
        data.training(images, **{**OPTIONS, **options})  # "auto"
    with pytest.raises(ValueError, match="Did you mean file"):
        data.training(images, **OPTIONS, sharding="files")


def main(directory, output):
    """Run by a worker: writes the numbers of the examples that its replica receives in two epochs."""
    strategy = distribute.strategy()
    make = {**OPTIONS, "epochs": 2, "sharding": "file"}
    batches = distribute.batches(strategy, lambda rows: data.training(source(directory), batch_slice=rows, **make))
    seen = [np.array(strategy.experimental_local_results(x[INDEX])[0]).tolist() for x, _ in batches]
    with open(output, "w") as file:
        json.dump(seen, file)


def test_two_workers_see_every_example_once_an_epoch(directory, whole, tmp_path):
    both = workers.start(2, "-m", "tests.data.test_sharding", directory, tmp_path / "{index}.json")
    codes, _, errors = workers.finish(both)
    assert codes == [0, 0], errors[0][-3000:]
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    expected_batches = indices(whole[:8])
    assert len(first) == len(second) == 8
    for of_first, of_second, expected in zip(first, second, expected_batches, strict=True):
        assert of_first and of_second and sorted(of_first + of_second) == sorted(expected)
    for epoch in (slice(0, 4), slice(4, 8)):
        assert sorted(index for batch in (*first[epoch], *second[epoch]) for index in batch) == list(range(SIZE))


if __name__ == "__main__":
    main(*sys.argv[1:])
