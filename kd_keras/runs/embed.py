"""Embeds the images of a folder: vectors with the names of the files, nearest neighbors, a map: `kd_keras.embed`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_keras.errors import check_whole_number, explain_mismatch
from kd_keras.files import write_atomically
from kd_keras.report.embedding_page import write_page
from kd_keras.runs.image_folder import find_files, set_bits
from kd_keras.runs.loading import image_shape, is_export
from kd_keras.runs.predictions import check_file
from kd_keras.runs.run import Trained, load_network
from kd_keras.tasks.faces.export import load_embedder
from kd_keras.teacher import Teacher


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of the images of a folder.

    Attributes:
        files: N paths in the folder.
        vectors: `(N, D)` float32.
        unreadable: by file, why it cannot be read.
    """

    files: Sequence[str]
    vectors: np.ndarray
    unreadable: Mapping[str, str]

    def neighbors(self, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The nearest other images of each image, by the cosine of their embeddings.

        Args:
            count: the number of neighbors k, at least 1; at most N - 1 are returned.

        Returns:
            `(N, k)` positions in `files`, the nearest first, and their cosines `(N, k)` float32. A vector of zeros has
            the cosine 0 with every other.

        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]])
        >>> Embeddings(["a", "b", "c"], vectors, {}).neighbors(1)[0].tolist()
        [[2], [2], [0]]
        """
        check_whole_number("neighbors", "count", count)
        count = min(count, len(self.files) - 1)
        unit = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=-1, keepdims=True), 1e-12)
        indices, cosines = [], []
        for start in range(0, len(unit), 1000):  # in parts, because all cosines of many images do not fit in memory
            part = unit[start : start + 1000] @ unit.T
            part[np.arange(len(part)), start + np.arange(len(part))] = -np.inf
            indices.append(np.argsort(-part, axis=-1, kind="stable")[:, :count])
            cosines.append(np.take_along_axis(part, indices[-1], axis=-1))
        return np.concatenate(indices), np.concatenate(cosines).astype("float32")

    def plane(self) -> np.ndarray:
        """The first two principal components `(N, 2)` of the embeddings; zeros for components that do not exist."""
        from sklearn.decomposition import PCA

        count = min(2, *self.vectors.shape)
        points = PCA(count, random_state=0).fit_transform(self.vectors) if len(self.files) > 1 else np.zeros((1, count))
        return np.pad(points, ((0, 0), (0, 2 - count)))

    def save(self, path: str | os.PathLike) -> None:
        """Writes an `.npz` file with "files" `(N,)` and "embedding" `(N, D)`, which `Teacher.arrays` reads.

        Raises:
            ValueError: if the path ends in something else.
        """
        check_file("a file", path, (".npz",))

        def write(name: str) -> None:
            with open(name, "wb") as file:  # to the name of a file NumPy would append .npz if it ends in .NPZ
                np.savez(file, files=np.array(self.files), embedding=self.vectors)

        write_atomically(Path(path), write)


def embed(
    model: Trained,
    images: str | os.PathLike,
    *,
    output: str | os.PathLike | None = None,
    page: str | os.PathLike | None = None,
    neighbors: int = 5,
    batch_size: int = 100,
    image_size: tuple[int, int] | None = None,
    image_bits: int | None = None,
) -> Embeddings:
    """Embeds an image or all images in a folder and its folders: the vector that a network's classifier reads.

    Images may differ in size and format; they are resized as test images are. Files that cannot be read are skipped
    with a warning.

    Args:
        model: a run, its path, a `.keras` file or a Keras model, or an exported network of faces.
        images: a folder or a file.
        output: an `.npz` file for "files" and "embedding".
        page: an HTML file with nearest neighbors and a map of the embeddings.
        neighbors: the number of neighbors on the page.
        batch_size: images per forward pass.
        image_size: `(H, W)` for a model that reads images of any size and belongs to no run.
        image_bits: of images with 16 bits per channel, the number of low bits that their values use, 8 to 16; by
            default that of the model's run.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if the model has no embedding, an embedding is not finite, there are no images, none can be read, or
            a file has another suffix.

    >>> import tempfile, keras
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("L", (20, 10), 255).save(f"{folder}/white.png")
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)]
    >>> embed(keras.Sequential(layers), folder).vectors.shape
    (1, 4)
    """
    check_whole_number("embed", "neighbors", neighbors)
    check_whole_number("embed", "batch_size", batch_size)
    check_file("a file", output, (".npz",))
    check_file("a page", page, (".html",))
    folder = find_files(images)
    set_bits(folder, image_bits, model)
    run, shape = _load(model, image_size)
    files: list[str] = []
    vectors: list[np.ndarray] = []
    for batch in folder.batches(shape, batch_size):
        files += batch.files
        vectors.append(run(batch.images))
    embeddings = Embeddings(files, np.concatenate(vectors), folder.unreadable)
    if not np.isfinite(embeddings.vectors).all():
        raise ValueError(explain_mismatch(f"finite embeddings of {images}", "NaN or infinity", "train the model again"))
    if output is not None:
        embeddings.save(output)
    if page is not None:
        paths = [folder.root / name for name in files]
        write_page(
            Path(page),
            files,
            paths,
            embeddings.plane(),
            *embeddings.neighbors(neighbors),
            title=f"Embeddings of {images}",
            bits=folder.bits,
        )
    return embeddings


def _load(
    source: Trained, image_size: tuple[int, int] | None
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, int, int]]:
    """A function from images `(B, H, W, C)` uint8 to embeddings `(B, D)`, and `(H, W, C)`."""
    if is_export(source):
        path = os.fspath(source)
        try:
            embedder, shape = load_embedder(path)
            embedder(np.zeros((1, *shape), "uint8"))
        except Exception as error:  # each runtime raises its own types
            expected = "a run, a .keras file, or an exported network of faces from 'images' to 'embedding'"
            raise ValueError(explain_mismatch(expected, path, "pass the run that it was exported from")) from error
        return embedder, shape
    network = load_network(source)
    tapped = Teacher(network).tapped(["embedding"])
    if len(tapped.specs["embedding"].shape) != 2:
        received = f"one of shape {tapped.specs['embedding'].shape}"
        raise ValueError(explain_mismatch(f"an embedding (B, D) of {network.name!r}", received))

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(tapped(images.astype("float32"))["embedding"], "float32")

    return run, image_shape(source, network, image_size)
