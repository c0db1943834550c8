"""Compares networks of keras.applications with a file of weights in their own range with the same within kd_keras.

    python -m scripts.bench.pretrained_range --size 64

Each network is built with `weights=None`; its batch normalization, preprocessing and classifier are given values as
training leaves them. It is saved as `.weights.h5`, which `train` and the teachers of `distill` and `record` load, and
as legacy `.h5`, the form of the files that Keras downloads, which the student of `distill` loads. Labels are its own
predictions for the images, a fifth of them replaced at random. Its accuracy in its own range, behind
`preprocess_input`, must then be what the programs find without a change of weights (the learning rate is 0), and the
first convolution must see the same values. Fails if it is not so.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

import kd_keras as kd
from kd_keras.models.applications import preprocess_input
from kd_keras.private_api import sub_layers

NETWORKS = ("ResNet50", "MobileNet", "MobileNetV3Small", "EfficientNetB0")
CLASSES, COUNT = 5, 100
COLUMNS = ("own range", "train", "distill", "teacher", "evaluate", "record", "export")


def make_images(size: int) -> np.ndarray:
    """Random colors at 4 × 4 points, enlarged: `(COUNT, size, size, 3)` uint8."""
    coarse = np.random.default_rng(0).uniform(0, 255, (COUNT, 4, 4, 3))
    return np.clip(tf.image.resize(coarse, (size, size), "bicubic"), 0, 255).astype("uint8")


def give_trained_values(network: keras.Model, images: np.ndarray) -> None:
    """Statistics and scales as training leaves them, and a classifier that uses all classes about equally."""
    rng = np.random.default_rng(1)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            count = layer.get_weights()[-1]
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), count])
            layer.finalize_state()
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
        layer.gamma.assign(rng.uniform(0.7, 1.3, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.2, layer.beta.shape))
    network(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    bias = network.weights[-1]
    kernel = network.weights[-2]
    logits = np.log(np.maximum(network.predict(images, verbose=0), 1e-30))
    scale = 2 / logits.std(0)
    kernel.assign(kernel * scale)
    bias.assign((bias.numpy() - logits.mean(0)) * scale)


def save_legacy(network: keras.Model, path: Path) -> None:
    """Writes the part of a legacy model file that a legacy file of weights consists of."""
    whole = path.with_name("whole.h5")
    network.save(whole)
    with h5py.File(whole) as source, h5py.File(path, "w") as file:
        for layer in source["model_weights"]:
            source.copy(f"model_weights/{layer}", file)
        file.attrs.update(source["model_weights"].attrs)


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for split in ("train", "test"):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / f"class{label}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())


def first_convolution(network: keras.Model, images: np.ndarray) -> str:
    """The lowest and the highest value that the first convolution reads."""
    layers = sub_layers(network)
    convolution = next(layer for layer in layers if isinstance(layer, keras.layers.Conv2D))
    seen: list[Any] = []
    call = convolution.call
    convolution.call = lambda x, *args, **options: seen.append(x) or call(x, *args, **options)
    network(images, training=False)
    convolution.call = call
    # Zeros of the padding are values too, in both networks alike.
    return f"{float(np.min(seen[0])):.3f}..{float(np.max(seen[0])):.3f}"


def accuracy(outputs: Any, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(outputs, -1) == labels))


def measure(name: str, size: int, folder: Path) -> tuple[dict[str, float], str, str, float]:
    """The accuracies by column, what the first convolutions see, and the largest difference of probabilities."""
    keras.utils.clear_session()
    constructor = getattr(keras.applications, name)
    plain = constructor(weights=None, input_shape=(size, size, 3), classes=CLASSES)
    images = make_images(size)
    own = preprocess_input(name)(images.astype("float32"))
    give_trained_values(plain, own)
    expected = plain.predict(own, verbose=0)
    rng = np.random.default_rng(2)
    labels = np.where(rng.random(COUNT) < 0.2, rng.integers(0, CLASSES, COUNT), expected.argmax(-1))
    write_folder(folder / "data", images, labels)
    weights, legacy = folder / "plain.weights.h5", folder / "legacy.h5"
    plain.save_weights(weights)
    save_legacy(plain, legacy)
    network, options = f"applications/{name}", {"epochs": 1, "batch_size": 50, "learning_rate": 0.0, "jit": "off"}
    options |= {"data": str(folder / "data"), "freeze_backbone": True}
    trained = kd.train(model=network, weights=weights, run=folder / "trained", **options)
    teacher = f"{network}(weights='{weights}')"
    distilled = kd.distill(
        teacher=teacher, student=network, weights=legacy, methods=["kd"], run=folder / "distilled", **options
    )
    result = kd.evaluate([trained, distilled], teacher=trained)
    recording = kd.record(teacher=teacher, data=options["data"], batch_size=50, output=folder / "recording")
    kd.export(distilled, formats=["saved_model"], output=folder / "export")
    loaded = tf.saved_model.load(str(folder / "export" / "saved_model"))
    exported = loaded.serve(images)
    order = [int(path.parent.name[-1]) for path in sorted((folder / "data" / "train").glob("*/*.png"))]
    found = {
        "own range": accuracy(expected, labels),
        "train": accuracy(trained.model().predict(images, verbose=0), labels),
        "distill": accuracy(distilled.model().predict(images, verbose=0), labels),
        "teacher": distilled.result["teacher_accuracy"],
        "evaluate": list(result.findings.values())[-1]["accuracy"],
        "record": accuracy(recording.read(0, np.arange(COUNT))[0], np.array(order)),
        "export": accuracy(exported["logits"], labels),
    }
    difference = float(np.abs(exported["probabilities"] - expected).max())
    seen = first_convolution(trained.model(), images.astype("float32"))
    return found, first_convolution(plain, own), seen, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    arguments = parser.parse_args()
    logging.getLogger("kd_keras").setLevel(logging.ERROR)
    print(f"| network | first convolution | within kd_keras | {' | '.join(COLUMNS)} | largest difference |")
    print(f"|---|---|---{'|---:' * (len(COLUMNS) + 1)}|")
    failed = []
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            found, own, seen, difference = measure(name, arguments.size, Path(folder))
        numbers = " | ".join(f"{found[column]:.3f}" for column in COLUMNS)
        print(f"| {name} | {own} | {seen} | {numbers} | {difference:.0e} |", flush=True)
        if len({f"{value:.3f}" for value in found.values()}) > 1 or own != seen or difference > 5e-4:
            failed.append(name)
    if failed:
        raise SystemExit(f"Not as in their own range: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
