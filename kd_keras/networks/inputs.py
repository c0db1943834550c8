"""The images that a network reads: its inputs by name, the shape of its input, and how images are resized to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops, tree

from kd_keras.errors import explain_mismatch, shorten
from kd_keras.networks.graph import functional, is_walkable
from kd_keras.networks.layouts import reads_channels_first


def find_input_shape(network: keras.Model) -> tuple | None:
    """The shape of a network's only input with the batch dimension, or `None` if it has several inputs or is unbuilt.

    >>> find_input_shape(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))
    (None, 8, 8, 3)
    """
    shape = getattr(network, "input_shape", None)
    return shape if isinstance(shape, tuple) and not isinstance(shape[0], tuple) else None


def select_inputs(network: keras.Model, inputs: Any) -> Any:
    """The inputs of a network out of a dictionary that may have further ones.

    Args:
        network: the network that reads them.
        inputs: a dictionary of tensors by the names of the inputs; as many tensors as the network reads in any other
            structure are returned unchanged.

    Returns:
        The tensors in the structure in which the network takes its inputs. A subclassed model, whose inputs have no
        names, gets everything.

    Raises:
        ValueError: if an input is missing in a dictionary of several entries (a single entry is the only input,
            whatever its name), or if the number of tensors is another one.

    >>> network = keras.Sequential([keras.Input((4,), name="rgb"), keras.layers.Dense(3)])
    >>> select_inputs(network, {"depth": "depth", "rgb": "colors"})
    'colors'
    """
    if not is_walkable(network):
        return inputs
    structure = functional(network).input
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    names = _input_names(structure)
    expected = f"the inputs {', '.join(map(repr, tree.flatten(names)))} of network {network.name!r}"
    if not isinstance(inputs, Mapping):
        count = len(tree.flatten(inputs))
        if count != len(tree.flatten(names)):
            advice = "pass a dictionary of tensors by the names of the inputs, or as many tensors as the network reads"
            raise ValueError(explain_mismatch(expected, f"{count} tensor{'s' * (count != 1)}", advice))
        return inputs
    if all(name in inputs for name in tree.flatten(names)):
        return tree.map_structure(lambda name: inputs[name], names)
    if len(inputs) == 1 and not tree.is_nested(names):
        return next(iter(inputs.values()))
    received = f"a dictionary with the keys {shorten(sorted(inputs))}"
    advice = "name the inputs with keras.Input(shape, name=...) as in the data, or map the data to (images, labels)"
    raise ValueError(explain_mismatch(expected, received, advice))


def check_inputs(network: keras.Model, inputs: Any) -> None:
    """Checks that arrays, or their specifications, are numbers in the shapes that a network reads.

    Args:
        network: the network.
        inputs: as `select_inputs` takes them; what has no shape is not checked.

    Raises:
        ValueError: if an input is missing, is no array of numbers, or has another shape.
    """
    selected = select_inputs(network, inputs)
    for tensor in tree.flatten(selected):
        dtype = getattr(tensor, "dtype", None)
        if getattr(dtype, "name", "").startswith(("str", "bytes", "object")):
            advice = "read the files first, for example with kd_keras.data.load"
            raise ValueError(explain_mismatch(f"numbers for network {network.name!r}", f"values of {dtype}", advice))
    if not is_walkable(network):
        return
    for tensor, declared in zip(tree.flatten(selected), tree.flatten(functional(network).input), strict=True):
        shape = getattr(tensor, "shape", None)
        if shape is None or getattr(shape, "rank", 0) is None:
            continue
        shape, wanted = tuple(shape)[1:], tuple(declared.shape)[1:]
        if shape[-1:] == (1,) or wanted[-1:] == (1,):  # Keras adds and drops a last axis of 1 itself
            shape, wanted = (part[:-1] if part[-1:] == (1,) else part for part in (shape, wanted))
        pairs = zip(shape, wanted, strict=False)
        if len(shape) != len(wanted) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            expected = f"examples of shape {tuple(declared.shape)[1:]} for network {network.name!r}"
            advice = "resize them, or build the network for their shape"
            raise ValueError(explain_mismatch(expected, f"{tuple(tensor.shape)[1:]}", advice))


def _input_names(structure: Any) -> Any:
    """The names of the inputs of a network, in its structure of inputs."""
    if isinstance(structure, Mapping):
        return {key: key for key in structure}
    return tree.map_structure(lambda tensor: tensor.name, structure)


def check_same_images(student: keras.Model, teacher: keras.Model) -> None:
    """Checks that a teacher can read the student's images; logs if it would see them enlarged.

    Raises:
        ValueError: if the ranks or the channels of the images differ.
    """
    shape, teacher_shape = find_input_shape(student), find_input_shape(teacher)
    if shape is None or teacher_shape is None:
        return
    channels, sizes = _split_shape(student, shape)
    teacher_channels, teacher_sizes = _split_shape(teacher, teacher_shape)
    if len(shape) != len(teacher_shape) or channels != teacher_channels:
        raise ValueError(
            f"Teacher and student must read the same kind of image, but teacher {teacher.name!r} reads {teacher_shape} "
            f"and the student reads {shape}. Pass Teacher(preprocess=...) with a function from the student's images to "
            "the teacher's."
        )
    if len(shape) == 4 and None not in sizes + teacher_sizes and max(sizes) < max(teacher_sizes):
        logging.getLogger("kd_keras").warning(
            "Teacher %r reads images of %s and the student of %s: the teacher sees the student's images enlarged, and "
            "is less accurate on them. To give both their own size, train on images of the teacher's size, with "
            "keras.layers.Resizing as the student's first layer.",
            teacher.name,
            "x".join(map(str, teacher_sizes)),
            "x".join(map(str, sizes)),
        )


def _split_shape(network: keras.Model, shape: tuple) -> tuple[tuple, tuple]:
    """The number of channels with whether they are the first axis, and the other sizes of an image."""
    is_first = len(shape) == 4 and reads_channels_first(network)
    return (shape[1 if is_first else -1], is_first), shape[2:] if is_first else shape[1:-1]


def resize_to_input(network: keras.Model, images: Any) -> Any:
    """Resizes images to the fixed input size of a network, bilinearly, with antialiasing if they shrink.

    Args:
        network: the network that reads the images.
        images: `(B, H, W, C)`, or `(B, C, H, W)` for a network in channels_first; any other input is returned
            unchanged.

    Returns:
        The images in the network's size, with the axes in the order in which they came; unchanged if they have the
        right size or the network reads any size.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> resize_to_input(network, ops.zeros((2, 4, 4, 3))).shape
    TensorShape([2, 8, 8, 3])
    """
    shape = find_input_shape(network)
    if shape is None or not hasattr(images, "shape") or not len(shape) == len(images.shape) == 4:
        return images
    data_format = "channels_first" if reads_channels_first(network) else "channels_last"
    (_, sizes), (_, targets) = (_split_shape(network, tuple(part)) for part in (images.shape, shape))
    if None in targets or sizes == targets:
        return images
    # Images of unknown size may shrink; antialiasing has no effect on those that grow.
    shrinks = any(size is None or size > target for size, target in zip(sizes, targets, strict=True))
    return ops.image.resize(images, targets, interpolation="bilinear", antialias=shrinks, data_format=data_format)


def reads_smaller_images(network: keras.Model, image_shape: tuple | None) -> bool:
    """Whether images `(B, H, W, C)` of a shape must or may have to shrink before a network can read them.

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> reads_smaller_images(network, (None, 16, 16, 3)), reads_smaller_images(network, (None, 4, 4, 3))
    (True, False)
    """
    shape = find_input_shape(network)
    if shape is None or image_shape is None or not len(shape) == len(image_shape) == 4:
        return False
    pairs = zip(_split_shape(network, image_shape)[1], _split_shape(network, shape)[1], strict=True)
    return any(target and (size is None or target < size) for size, target in pairs)
