"""How well a network's embeddings separate classes that it was not trained on: k-nearest neighbors, linear probe."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kd_keras.errors import check_number, check_whole_number, explain_mismatch

BLOCK = 1024  # test images whose similarities are in memory at once


def nearest_neighbors_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> float:
    """The accuracy of the weighted vote of the nearest training images, by the cosine of the embeddings.

    Class c gets the sum of exp(cos(e, e_i) / T) over the k nearest images i of that class: Wu et al. 2018,
    *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, 1805.01978, section 3.4.

    Args:
        train: `(N, D)` embeddings of labeled images.
        train_labels: `(N,)` classes from 0.
        test: `(M, D)` embeddings.
        test_labels: `(M,)` classes.
        neighbors: k; all training images if they are fewer.
        temperature: T > 0.

    Returns:
        A fraction from 0 to 1. Of classes with equal votes the first is the prediction.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not fit.

    >>> train, labels = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 0, 1])
    >>> nearest_neighbors_accuracy(train, labels, np.array([[2.0, 0.1], [0.1, 3.0]]), np.array([0, 0]), neighbors=1)
    0.5
    """
    check_whole_number("nearest_neighbors_accuracy", "neighbors", neighbors)
    check_number("nearest_neighbors_accuracy", "temperature", temperature, above=0)
    _check_shapes(train, train_labels, test, test_labels)
    count, classes = min(neighbors, len(train)), int(train_labels.max()) + 1
    known, queries = _unit(train), _unit(test)
    correct = 0
    for start in range(0, len(queries), BLOCK):
        cosines = queries[start : start + BLOCK] @ known.T
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        # Relative to the highest cosine, so that the exponential is at most 1.
        votes = np.exp((np.take_along_axis(cosines, nearest, 1) - cosines.max(1, keepdims=True)) / temperature)
        scores = np.zeros((len(cosines), classes))
        np.add.at(scores, (np.arange(len(cosines))[:, None], train_labels[nearest]), votes)
        correct += int((scores.argmax(1) == test_labels[start : start + BLOCK]).sum())
    return correct / len(test)


def linear_probe_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    regularization: float = 1.0,
) -> float:
    """The accuracy of a multinomial logistic regression on the embeddings, which scikit-learn fits.

    The dimensions are first scaled to mean 0 and standard deviation 1 over the training images.

    Args:
        train, train_labels, test, test_labels: as for `nearest_neighbors_accuracy`.
        regularization: the factor of half the squared norm of the weights, relative to the sum of the losses of the
            training images; above 0.

    Returns:
        A fraction from 0 to 1.

    Raises:
        ValueError: if there is only one class, an argument is out of range, or the shapes do not fit.

    >>> train, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> linear_probe_accuracy(train, labels, np.array([[-3.0], [3.0]]), np.array([0, 1]))
    1.0
    """
    check_number("linear_probe_accuracy", "regularization", regularization, above=0)
    _check_shapes(train, train_labels, test, test_labels)
    if len(np.unique(train_labels)) < 2:
        raise ValueError(explain_mismatch("training images of two or more classes", "one class"))
    scaler = StandardScaler().fit(train.astype("float64"))
    probe = LogisticRegression(C=1.0 / regularization, max_iter=1000)
    probe.fit(scaler.transform(train.astype("float64")), train_labels)
    return float((probe.predict(scaler.transform(test.astype("float64"))) == test_labels).mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype("float64")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _check_shapes(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> None:
    shapes = [np.shape(array) for array in (train, train_labels, test, test_labels)]
    is_right = len(shapes[0]) == len(shapes[2]) == 2 and shapes[0][1] == shapes[2][1] and shapes[0][0] and shapes[2][0]
    if not is_right or shapes[1] != shapes[0][:1] or shapes[3] != shapes[2][:1]:
        raise ValueError(explain_mismatch("embeddings (N, D) and (M, D) with labels (N,) and (M,)", f"shapes {shapes}"))
