"""What one of two workers pays if it reads all files and not only its own: the input pipeline by itself.

    python -m scripts.bench.sharding --data=imagenette_96 --data_dir=../shared/data --split=train

The images are first written into 16 files by TFDS's writer, in a temporary directory. An epoch of one worker is then
read in both ways in turn, with augmentation and without images kept in memory.
"""

import argparse
import tempfile
import time

import tensorflow_datasets as tfds

from kd_keras import data
from kd_keras.data import Augmentation
from kd_keras.distribute.slices import BatchSlice


def write(options: argparse.Namespace, directory: str) -> data.Source:
    """The images of a dataset in 16 files, as JPEG of one size."""
    source = data.load(options.data, options.split, options.data_dir)
    features = {
        "image": tfds.features.Image(shape=source.image_shape, encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=source.classes),
    }
    rows = source.examples.map(lambda one: {"image": one["image"], "label": one["label"]})
    tfds.dataset_builders.store_as_tfds_dataset(
        name="several_files",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows},
        data_dir=directory,
        download_config=tfds.download.DownloadConfig(num_shards=16),
    )
    return data.load("several_files", "train", directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette_96")
    parser.add_argument("--split", default="train")
    parser.add_argument("--data_dir")
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = write(options, directory)
        print(f"{source.size:,} images of {source.image_shape} in {source.files} files; seconds of an epoch.")
        print("| by data | by file | ratio |\n|---:|---:|---:|")
        for _ in range(options.repeats):
            seconds = []
            for sharding in ("data", "file"):
                views = {"augmentation": Augmentation(flip=True), "cache": False, "epochs": 1, "batch_size": 64}
                batches = data.training(source, batch_slice=BatchSlice(0, 1, 2), sharding=sharding, **views)
                begun = time.perf_counter()
                count = sum(len(y) for _, y in batches)
                seconds.append(time.perf_counter() - begun)
            by_data, by_file = seconds
            print(f"| {by_data:.2f} | {by_file:.2f} | {by_data / by_file:.2f} |", flush=True)
        print(f"This worker read {count:,} examples.")


if __name__ == "__main__":
    main()
