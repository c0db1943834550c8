"""The default dataset, which needs no download: scikit-learn's handwritten digits as a TFDS dataset."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

TEST_EXAMPLES = 797  # of 1,797; the other 1,000 are for training


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 gray pixels (Alpaydin and Kaynak 1998, the test part of UCI's `optdigits`).

    The split into 1,000 train and 797 test examples is stratified by class and fixed. The gray values, 0 to 16 in
    scikit-learn, are scaled to 0 to 255. `id` is the example's number in the order of scikit-learn.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels, as scikit-learn ships them.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        # Imported here because scikit-learn is needed only once, to prepare the dataset.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)), test_size=TEST_EXAMPLES, stratify=digits.target, random_state=0
        )
        images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
        return {
            "train": self._generate_examples(images, digits.target, train),
            "test": self._generate_examples(images, digits.target, test),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> Iterator:
        for number in sorted(numbers.tolist()):
            yield number, {"id": f"{number:04d}", "image": images[number], "label": int(labels[number])}


def prepare(data_dir: str | os.PathLike | None = None) -> None:
    """Writes the digits to a TFDS directory if they are not there yet; takes about a second and prints nothing.

    Args:
        data_dir: the directory of TFDS datasets, or `None` for the default one. Created if it does not exist.

    Raises:
        OSError: if the directory can be neither read nor written.
    """
    try:
        builder = Digits(data_dir=data_dir)
        if builder.is_prepared():
            return
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        # TFDS writes to a temporary directory and renames it. If two processes start at once, the second rename fails,
        # but the files of the first process are complete. Any other error concerns the directory.
        with contextlib.suppress(Exception):
            if Digits(data_dir=data_dir).is_prepared():
                return
        directory = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        reason = str(error).splitlines()[0] if str(error) else ""
        raise OSError(
            f"The digits dataset can be neither read from nor written to {directory}: {type(error).__name__}: "
            f"{reason}. Pass a data_dir that is writable."
        ) from error
