"""The embedded default: scikit-learn's handwritten digits as a TFDS dataset, with nothing to download."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from kd_keras.errors import explain_mismatch

TEST_EXAMPLES = 797  # of 1,797; 1,000 are left to train on


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 grey pixels (Alpaydin and Kaynak 1998, the test part of UCI's `optdigits`).

    The split into 1,000 train and 797 test examples is stratified by class and fixed. Grey values, 0 to 16 in
    scikit-learn, are stretched to 0 to 255. `id` is the example's number in scikit-learn's order.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels, as scikit-learn ships them.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict({
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        # Here and not above: scikit-learn is needed once, when the dataset is prepared.
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

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Iterator:
        for number in sorted(chosen.tolist()):
            yield number, {"id": f"{number:04d}", "image": images[number], "label": int(labels[number])}


def prepare(data_dir: str | os.PathLike | None = None) -> None:
    """Writes the digits to a TFDS directory, unless they are there; takes about a second, prints nothing.

    Args:
        data_dir: where TFDS keeps its datasets; `None` for its usual place. Made where it does not exist.

    Raises:
        OSError: where that directory can be neither read nor written.
    """
    try:
        builder = Digits(data_dir=data_dir)
        if builder.is_prepared():
            return
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        # TFDS writes beside the final place and renames: when two processes start at once, the second one's
        # rename fails, and the first one's files are just as good. Every other reason is the directory's.
        with contextlib.suppress(Exception):
            if Digits(data_dir=data_dir).is_prepared():
                return
        place = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        came = f"{place}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        needed = "a directory in which the digits are prepared, or can be"
        raise OSError(explain_mismatch(needed, came, "give a data_dir that can be written")) from error
