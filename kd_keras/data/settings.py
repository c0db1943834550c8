"""The arguments of `data.training` in groups: settings of views, of batches, and the range of epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd_keras.data.base import CLASS, ImageAugmentation, Source
from kd_keras.errors import explain_mismatch, shorten


@dataclass(frozen=True)
class ViewSettings:
    """The settings that determine the pixels of each view of an image.

    Attributes:
        image_size: `(H, W)` to resize to, or `None` for the images' own size.
        augmentation: makes the views, or `None`.
        seed: at least 0.

    Raises:
        ValueError: if a value is out of range.
    """

    image_size: tuple[int, int] | None = None
    augmentation: ImageAugmentation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(0, seed=self.seed)
        size = self.image_size
        if size is not None and not (
            isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
        ):
            raise ValueError(
                f"image_size must be (height, width), both whole and at least 1, but received {shorten(size)}."
            )

    @property
    def changes_images(self) -> bool:
        """Whether the augmentation changes single images."""
        return self.augmentation is not None and self.augmentation.changes_images

    @property
    def mixes_batches(self) -> bool:
        """Whether the augmentation mixes the images of a batch, so that a view depends on its batch."""
        return self.augmentation is not None and self.augmentation.mixes


@dataclass(frozen=True)
class BatchSettings:
    """How the examples of an epoch become batches; the attributes are arguments of `data.training`."""

    batch_size: int
    drop_remainder: bool = False
    shuffle: bool = True
    cache: bool = True
    images_per_identity: int | None = None

    def check_identities(self, source: Source, views: ViewSettings, is_in_memory: bool) -> None:
        """Checks that batches can have several images of each identity, if `images_per_identity` is set.

        Raises:
            ValueError: if they cannot.
        """
        images = self.images_per_identity
        if images is None:
            return
        check_whole(2, images_per_identity=images)
        problems = {
            f"labels of the kind {source.label_kind!r}": source.label_kind != CLASS,
            f"batch_size={self.batch_size}, below the {2 * images} images of two identities": (
                self.batch_size < 2 * images
            ),
            "shuffle=False": not self.shuffle,
            "mixup or cutmix": views.mixes_batches,
            "images that are not kept in memory": not is_in_memory,
        }
        for received, is_wrong in problems.items():
            if is_wrong:
                expected = (
                    f"shuffled images in memory with one identity each, for images_per_identity={images} of "
                    f"{source.name!r}"
                )
                raise ValueError(explain_mismatch(expected, received, "change it, or leave images_per_identity out"))

    def count_steps(self, source: Source) -> int:
        """The number of batches in an epoch.

        Raises:
            ValueError: if the batch size is below 1, or the remainder is dropped and no batch is left.
        """
        check_whole(1, batch_size=self.batch_size)
        if not self.drop_remainder:
            return math.ceil(source.size / self.batch_size)
        if self.batch_size > source.size:
            expected = f"a batch size of at most {source.size}, the number of examples of {source.name}"
            received = f"{self.batch_size}, for which drop_remainder=True leaves no batch"
            raise ValueError(explain_mismatch(expected, received, "choose a smaller batch_size"))
        return source.size // self.batch_size


@dataclass(frozen=True)
class EpochRange:
    """A part of an endless training: it begins at `step` of `epoch`, and has `count` epochs or no end.

    Raises:
        ValueError: if a number is out of range.
    """

    epoch: int = 0
    step: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        check_whole(0, start_epoch=self.epoch, start_step=self.step)
        check_whole(1, epochs=1 if self.count is None else self.count)


def check_whole(least: int, **numbers: int) -> None:
    """Checks that named arguments are whole numbers of at least `least`.

    Raises:
        ValueError: if one of them is not; the message names it.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, but received {shorten(number)}.")
