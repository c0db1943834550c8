"""Vision transformers: DeiT of Touvron et al. 2021, 2012.12877, and ViT-Lite of Hassani et al. 2021, 2104.05704.

Both have the blocks of Dosovitskiy et al. 2021, 2010.11929, with the normalization before each part. DeiT may have a
distillation token with a head of its own, which `methods.DeiT` trains; the prediction is then the mean of the
predictions of both heads. Block i ends in the layer `block<i>_out`, tokens `(B, N, D)`; the taps "tokens" and "cls" are
those after the last normalization.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.models.base import MeanOfPredictions, image_input
from kd_keras.networks.features import DECLARED_EMBEDDING
from kd_keras.networks.preprocessing import PixelStatistics

EPSILON = 1e-6  # of the normalizations
SMALL_IMAGE = 64  # the fewest rows of an image that patches of 16 pixels suit


def vit_lite(
    input_shape: tuple[int, ...],
    classes: int,
    normalization: PixelStatistics | None = None,
    *,
    patch_size: int = 4,
    depth: int = 7,
    drop_path: float = 0.1,
) -> keras.Model:
    """ViT-Lite-7/4, for small images: 7 blocks of width 256 with 4 heads, MLPs of width 512, patches of 4 pixels.

    Args:
        input_shape: `(H, W, C)`, a multiple of the size of a patch.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        patch_size: the side of a patch in pixels.
        depth: number of blocks, such as 6 for ViT-Lite-6/4.
        drop_path: the stochastic depth of the last block.

    Returns:
        A model from pixels to logits `(B, K)`, computed from the class token.

    Raises:
        ValueError: if H or W is not a multiple of the patch size, or `drop_path` is not from 0 to below 1.

    >>> vit_lite((8, 8, 1), 10, depth=1).output_shape
    (None, 10)
    """
    inputs, x = image_input(input_shape, normalization)
    x = _patches(x, patch_size, 256, 1)
    x = _blocks(x, depth, width=256, heads=4, hidden=512, drop_path=drop_path, qkv_bias=False)
    return keras.Model(inputs, _head(TokenAt(0, name=DECLARED_EMBEDDING)(x), classes, "logits"), name="vit_lite")


def deit(
    input_shape: tuple[int, ...],
    classes: int,
    normalization: PixelStatistics | None = None,
    *,
    width: int,
    heads: int,
    name: str,
    distillation_token: bool = True,
    patch_size: int | None = None,
    depth: int = 12,
    drop_path: float = 0.1,
) -> keras.Model:
    """DeiT: `deit_tiny` has the width 192 and 3 heads, `deit_small` 384 and 6.

    Args:
        input_shape: `(H, W, C)`, a multiple of the size of a patch.
        classes: number of classes K.
        normalization: mean and standard deviation of the pixels in training; by default 127.5 and 63.75.
        width: of the tokens.
        heads: of the attention.
        name: of the model.
        distillation_token: whether there is a second token with a head of its own.
        patch_size: the side of a patch in pixels; by default 16, or 4 if the image has fewer than 64 rows.
        depth: number of blocks.
        drop_path: the stochastic depth of the last block, from 0 to below 1.

    Returns:
        A model from pixels to logits `(B, K)`: with the distillation token those of the mean prediction of the layers
        `class_head` and `distillation_head`. The mean is that of their probabilities, whereas the authors' code takes
        that of their logits.

    Raises:
        ValueError: if H or W is not a multiple of the patch size, or `drop_path` is not from 0 to below 1.

    >>> deit_tiny((32, 32, 3), 10, depth=1).get_layer("distillation_head").output.shape
    (None, 10)
    """
    inputs, x = image_input(input_shape, normalization)
    patch_size = patch_size or (16 if input_shape[0] >= SMALL_IMAGE else 4)
    x = _patches(x, patch_size, width, 2 if distillation_token else 1)
    x = _blocks(x, depth, width=width, heads=heads, hidden=4 * width, drop_path=drop_path, qkv_bias=True)
    embedding = TokenAt(0, name=DECLARED_EMBEDDING)(x)
    if not distillation_token:
        return keras.Model(inputs, _head(embedding, classes, "logits"), name=name)
    tokens = {"class_head": embedding, "distillation_head": TokenAt(1, name="distillation_token")(x)}
    logits = [_head(token, classes, head) for head, token in tokens.items()]
    return keras.Model(inputs, MeanOfPredictions(name="mean_of_predictions")(logits), name=name)


deit_tiny = functools.partial(deit, width=192, heads=3, name="deit_tiny")
deit_small = functools.partial(deit, width=384, heads=6, name="deit_small")


def _patches(x: Tensor, patch_size: int, width: int, extra: int) -> Tensor:
    sizes = x.shape[1:3]
    if any(size % patch_size for size in sizes):
        expected = f"images whose height and width are multiples of the patch size {patch_size}"
        raise ValueError(explain_mismatch(expected, f"{sizes}", "pass another image size or patch_size="))
    return PatchEmbedding(patch_size, width, extra, name="patch_embedding")(x)


def _blocks(x: Tensor, depth: int, *, width: int, heads: int, hidden: int, drop_path: float, qkv_bias: bool) -> Tensor:
    """The blocks and the last normalization; the stochastic depth grows linearly from 0 at the first block."""
    check_number("build", "drop_path", drop_path, least=0, below=1)
    for number, rate in enumerate(np.linspace(0, drop_path, depth).tolist(), start=1):
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"block{number}_norm1")(x)
        y = SelfAttention(heads, qkv_bias, name=f"block{number}_attention")(y)
        x = layers.Add(name=f"block{number}_mid")([x, _drop_path(y, rate, f"block{number}_drop1")])
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"block{number}_norm2")(x)
        y = layers.Dense(hidden, kernel_initializer=_normal(), name=f"block{number}_mlp1")(y)
        y = layers.Activation("gelu", name=f"block{number}_gelu")(y)
        y = layers.Dense(width, kernel_initializer=_normal(), name=f"block{number}_mlp2")(y)
        x = layers.Add(name=f"block{number}_out")([x, _drop_path(y, rate, f"block{number}_drop2")])
    return layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)


def _drop_path(x: Tensor, rate: float, name: str) -> Tensor:
    """Leaves out a branch for some examples: Huang et al. 2016, 1603.09382."""
    return layers.Dropout(rate, noise_shape=(None, 1, 1), name=name)(x) if rate else x


def _head(token: Tensor, classes: int, name: str) -> Tensor:
    return layers.Dense(classes, kernel_initializer=_normal(), name=name)(token)


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


@keras.saving.register_keras_serializable("kd_keras")
class PatchEmbedding(layers.Layer):
    """From an image `(B, H, W, C)` to tokens `(B, extra + h w, D)`: learned tokens, then those of the patches.

    Args:
        patch_size: the side of a patch; the patches do not overlap.
        width: D.
        extra: the number of learned tokens before those of the patches.
        **options: as every Keras layer takes them.

    >>> PatchEmbedding(4, 6, extra=1)(ops.zeros((2, 8, 12, 3))).shape
    TensorShape([2, 7, 6])
    """

    def __init__(self, patch_size: int, width: int, extra: int = 1, **options: Any):
        super().__init__(**options)
        self.patch_size, self.width, self.extra = patch_size, width, extra
        self.project = layers.Conv2D(
            width, patch_size, patch_size, kernel_initializer=_normal(), dtype=self.dtype_policy, name="project"
        )

    def build(self, input_shape: tuple) -> None:
        self.project.build(input_shape)
        count = self.extra + (input_shape[1] // self.patch_size) * (input_shape[2] // self.patch_size)
        self.tokens = self.add_weight(name="tokens", shape=(1, self.extra, self.width), initializer=_normal())
        self.positions = self.add_weight(name="positions", shape=(1, count, self.width), initializer=_normal())
        super().build(input_shape)

    def call(self, images: Tensor) -> Tensor:
        maps = self.project(images)
        patches = ops.reshape(maps, (-1, self.positions.shape[1] - self.extra, self.width))
        tokens = ops.broadcast_to(self.tokens, (ops.shape(patches)[0], self.extra, self.width))
        tokens = ops.cast(tokens, patches.dtype)
        return ops.concatenate([tokens, patches], axis=1) + ops.cast(self.positions, patches.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        count = self.extra + (input_shape[1] // self.patch_size) * (input_shape[2] // self.patch_size)
        return (input_shape[0], count, self.width)

    def get_config(self) -> dict[str, Any]:
        own = {"patch_size": self.patch_size, "width": self.width, "extra": self.extra}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("kd_keras")
class SelfAttention(layers.Layer):
    """Attention of tokens `(B, N, D)` to each other, D / heads dimensions in each head; returns `(B, N, D)`.

    The projections of queries, keys and values are one product, as published.

    Args:
        heads: number of heads, a divisor of D.
        qkv_bias: whether queries, keys and values have a bias; the last projection always has one.
        **options: as every Keras layer takes them.

    >>> SelfAttention(2)(ops.zeros((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    def __init__(self, heads: int, qkv_bias: bool = True, **options: Any):
        super().__init__(**options)
        self.heads, self.qkv_bias = heads, qkv_bias

    def build(self, input_shape: tuple) -> None:
        width, shared = input_shape[-1], {"kernel_initializer": _normal(), "dtype": self.dtype_policy}
        self.qkv = layers.Dense(3 * width, use_bias=self.qkv_bias, name="qkv", **shared)
        self.project = layers.Dense(width, name="project", **shared)
        self.qkv.build(input_shape)
        self.project.build(input_shape)
        super().build(input_shape)

    def call(self, tokens: Tensor) -> Tensor:
        count, width = tokens.shape[1], tokens.shape[2]
        parts = ops.reshape(self.qkv(tokens), (-1, count, 3, self.heads, width // self.heads))
        query, key, value = (ops.transpose(parts[:, :, index], (0, 2, 1, 3)) for index in range(3))
        scores = ops.matmul(query * (width // self.heads) ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
        mixed = ops.matmul(ops.softmax(scores, axis=-1), value)
        return self.project(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, count, width)))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "qkv_bias": self.qkv_bias}


@keras.saving.register_keras_serializable("kd_keras")
class TokenAt(layers.Layer):
    """One of the tokens `(B, N, D)`, `(B, D)`.

    >>> TokenAt(1)(ops.reshape(ops.arange(6.0), (1, 3, 2))).numpy().tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, place: int, **options: Any):
        super().__init__(**options)
        self.place = place

    def call(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.place]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "place": self.place}
