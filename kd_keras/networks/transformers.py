"""The tokens of vision transformers: of KerasHub, of the zoo, and of any network that cuts an image into patches.

A patch embedding is a layer with a `patch_size` that makes tokens `(B, N, D)` of an image, or a reshape of a map
`(B, h, w, D)` to tokens `(B, h w, D)`. Tokens before those of the patches belong to the class, to a teacher (DeiT's
distillation token), or to nothing (registers).
"""

from __future__ import annotations

from typing import NamedTuple

import keras

from kd_keras.contracts import Tensor
from kd_keras.networks.graph import Edge, Graph

WITHOUT_CLASS_TOKEN = ("SigLIPVisionEmbedding",)  # whose shape in the graph has one token more than there are


class PatchTokens(NamedTuple):
    """The tokens of a transformer.

    Attributes:
        tensor: `(B, N, D)`, the last of them that every path to the output passes.
        grid: `(h, w)`, how the patches lie in the image, row by row.
        has_class_token: whether a token comes before those of the patches.
    """

    tensor: Tensor
    grid: tuple[int, int]
    has_class_token: bool

    def as_map(self, tokens: Tensor) -> Tensor:
        """The tokens of the patches `(B, h, w, D)`, which are the last h w of all."""
        height, width = self.grid
        patches = tokens[:, -height * width :]
        return keras.ops.reshape(patches, (-1, height, width, tokens.shape[-1]))


def find_tokens(graph: Graph, candidates: list[Tensor]) -> PatchTokens | None:
    """The last tokens among the tensors that every path passes; `None` if the network is no transformer.

    Args:
        graph: the network.
        candidates: tensors in the order of the network.

    >>> layers = [keras.layers.Conv2D(5, 4, 4), keras.layers.Reshape((6, 5)), keras.layers.LayerNormalization()]
    >>> graph = Graph(keras.Sequential([keras.Input((8, 12, 3)), *layers]))
    >>> find_tokens(graph, [graph.output]).grid
    (2, 3)
    """
    embeddings = [(edge, grid) for edge in graph.calls if (grid := _grid(edge)) is not None]
    if len(embeddings) != 1:
        return None
    (edge, grid), count = embeddings[0], embeddings[0][1][0] * embeddings[0][1][1]
    starts = graph.calls.index(edge)
    later = {id(result) for call in graph.calls[starts:] for result in call.results}
    tokens = [t for t in candidates if id(t) in later and len(t.shape) == 3 and (t.shape[1] or 0) >= count]
    if not tokens:
        return None
    is_without = type(edge.original).__name__ in WITHOUT_CLASS_TOKEN
    return PatchTokens(tokens[-1], grid, tokens[-1].shape[1] > count and not is_without)


def _grid(edge: Edge) -> tuple[int, int] | None:
    """The grid of the patches if a call is a patch embedding."""
    source, result = edge.sources[0] if edge.sources else None, edge.results[0]
    if source is None or len(source.shape) != 4 or len(result.shape) != 3 or result.shape[1] is None:
        return None
    patch = getattr(edge.original, "patch_size", None)
    if patch is None:
        size = tuple(source.shape[1:3])
        is_reshape = type(edge.original).__name__ == "Reshape" and source.shape[-1] == result.shape[-1]
        return size if is_reshape and None not in size and size[0] * size[1] == result.shape[1] else None
    is_first = getattr(edge.original, "data_format", None) == "channels_first"
    size = tuple(source.shape[2:4] if is_first else source.shape[1:3])
    if None in size:
        return None
    height, width = (patch, patch) if isinstance(patch, int) else tuple(patch)
    grid = (size[0] // height, size[1] // width)
    return grid if 0 < grid[0] * grid[1] <= result.shape[1] else None
