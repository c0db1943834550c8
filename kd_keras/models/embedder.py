"""Networks that recognize identities: an embedding on any network, and a margin softmax to train it.

`embedder` makes the network that is used: from an image to an embedding, whose direction describes the face. Its
training needs a classifier of the training identities, which `recognizer` adds, and which is not exported.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from kd_keras.contracts import Tensor
from kd_keras.distribute.reductions import replica_count, sum_over_replicas
from kd_keras.errors import check_choice, check_number, check_whole_number, explain_mismatch
from kd_keras.faces.margins import (
    Margin,
    adaface_quality,
    center_cosines,
    check_identities,
    embedding_norms,
    margin_loss,
    published_margin,
)
from kd_keras.models.base import batch_norm
from kd_keras.networks.graph import functional
from kd_keras.networks.taps import Tapped

POOLINGS = {"mean": "embedding", "flatten": "embedding:map"}
DIMENSION = 128
NORM_MOMENTUM = 0.01  # of AdaFace's running statistics, the factor of the new values


def embedder(
    network: keras.Model,
    *,
    dimension: int | None = None,
    dropout: float = 0.4,
    pooling: str = "mean",
    name: str | None = None,
) -> keras.Model:
    """A network from images to embeddings `(B, D)`, sharing the layers of a classifier up to its classifier.

    What the classifier reads is followed by BatchNorm, dropout, a linear layer and BatchNorm, the form "E" of Deng et
    al. 2019, *ArcFace*, 1801.07698, section 3.1. A network that has an embedding of its own, a layer called "embedding"
    that its classifier reads as in `mobilefacenet`, keeps it; `dropout` and `pooling` are then not used.

    Args:
        network: a Functional classifier whose embedding is computed by its own layers, not in a nested model.
        dimension: D; by default 128, or that of the network's own embedding.
        dropout: the fraction of dropped values, from 0 to below 1.
        pooling: "mean", the embedding of the network, or "flatten", all values of its last map as published: D times
            H W C weights, which only suits small maps such as 7 x 7.
        name: the model's name; by default `"embedder_"` and the network's.

    Returns:
        A Functional model; its output is not normalized, and its last layer is called "embedding".

    Raises:
        ValueError: if an argument is out of range, the network has an embedding of its own of another dimension, its
            classifier does not read its layer called "embedding", or its embedding comes from a nested model.

    >>> from kd_keras.models.resnet import resnet8
    >>> embedder(resnet8((32, 32, 3), 10), dimension=16).output_shape
    (None, 16)
    """
    check_choice("embedder", "pooling", pooling, POOLINGS)
    check_number("embedder", "dropout", dropout, least=0, below=1)
    name = name or f"embedder_{network.name}"
    network = functional(network)
    own = [layer for layer in network.layers if layer.name == "embedding"]
    if own:
        read = Tapped(network, ["embedding"]).specs["embedding"].layer
        if read != "embedding":
            expected = f'a layer called "embedding" of {network.name!r} that its classifier reads'
            raise ValueError(explain_mismatch(expected, f"one before {read!r}", "give the layer another name"))
        if dimension not in (None, own[0].output.shape[-1]):
            received = f"dimension={dimension} for {network.name!r}, whose own embedding has {own[0].output.shape[-1]}"
            advice = f"pass dimension= to the network, in build() as backbone={{'dimension': {dimension}}}"
            raise ValueError(explain_mismatch("no dimension, or that of the network's embedding", received, advice))
        return keras.Model(network.input, own[0].output, name=name)
    width = check_whole_number("embedder", "dimension", DIMENSION if dimension is None else dimension)
    x = _read_features(network, pooling)
    x = layers.Dropout(dropout, name="embedding_dropout")(batch_norm(x, "embedding_input"))
    x = layers.Dense(width, use_bias=False, name="embedding_dense")(x)
    return keras.Model(network.input, batch_norm(x, "embedding"), name=name)


def _read_features(network: keras.Model, pooling: str) -> Tensor:
    """What the embedding is made of, `(B, N)`: a tensor of the network's own graph, so that the model can be saved."""
    path = Tapped(network, [POOLINGS[pooling]]).specs[POOLINGS[pooling]].layer.removesuffix(":mean")
    if path not in {layer.name for layer in network.layers}:
        expected = f"a network {network.name!r} whose own layers compute its embedding"
        advice = "unfold the nested model, or build an embedding on its output with keras.Model"
        raise ValueError(explain_mismatch(expected, f"the layer {path!r}, of a model nested in it", advice))
    x = network.get_layer(path).output
    if pooling == "flatten":
        return layers.Flatten(name="embedding_flatten")(x)
    return layers.GlobalAveragePooling2D(name="embedding_pool")(x) if len(x.shape) == 4 else x


def recognizer(
    network: keras.Model,
    identities: int,
    *,
    head: str = "arcface",
    scale: float | None = None,
    margin: float | None = None,
    name: str | None = None,
) -> Recognizer:
    """Adds a margin softmax over the training identities to a network of embeddings, sharing its layers.

    The centers of the identities take K D 4 bytes, 205 MB for 100,000 identities and 512 dimensions, and as much for
    their gradient and each slot of the optimizer (two with Adam); the logits of a batch take B K 4 bytes. They are on
    one device: beyond some 100,000 identities they need to be sharded, which is not supported.

    Args:
        network: a Functional model from images to embeddings `(B, D)`, as `embedder` makes it.
        identities: K, at least 1.
        head: "arcface", "cosface", "sphereface" or "adaface".
        scale: s, by default as published: 64, for SphereFace 30. Lower it to about 30 for few identities.
        margin: m, by default as published: 0.5, 0.35, 1.5 and 0.4 of the heads above.
        name: the model's name; by default `"recognizer_"` and the network's.

    Raises:
        ValueError: if an argument is out of range, or the network does not return embeddings `(B, D)`.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = recognizer(embedder(resnet8((32, 32, 3), 10), dimension=16), 10)
    >>> {name: output.shape for name, output in network(ops.zeros((2, 32, 32, 3))).items()}
    {'embedding': TensorShape([2, 16]), 'logits': TensorShape([2, 10])}
    """
    check_whole_number("recognizer", "identities", identities)
    outputs = network.outputs
    if len(network.inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        received = f"{network.name!r} with outputs of shape {[tuple(output.shape) for output in outputs]}"
        raise ValueError(explain_mismatch("a network from images to embeddings (B, D)", received, "use embedder()"))
    logits = MarginHead(identities, kind=head, scale=scale, margin=margin, name="logits")(outputs[0])
    taps = {"embedding": outputs[0], "logits": logits}
    return Recognizer(inputs=network.inputs[0], outputs=taps, name=name or f"recognizer_{network.name}")


@keras.saving.register_keras_serializable("kd_keras")
class MarginHead(layers.Layer):
    """The scaled cosines `(B, K)` float32 between embeddings and the centers of K identities, and the margin loss.

    The margin belongs to the loss and not to the output, because the output must not depend on labels.

    Args:
        identities: K.
        kind, scale, margin: as `kd_keras.faces.margins.published_margin` takes them.

    >>> MarginHead(10, kind="cosface").softmax
    Margin(kind='cosface', scale=64.0, margin=0.35)
    """

    def __init__(
        self,
        identities: int,
        *,
        kind: str = "arcface",
        scale: float | None = None,
        margin: float | None = None,
        **options: Any,
    ):
        super().__init__(**{**options, "dtype": "float32"}, autocast=False)
        self.identities = identities
        self.softmax: Margin = published_margin(kind, scale, margin)

    def build(self, input_shape: tuple) -> None:
        shape, initial = (input_shape[-1], self.identities), keras.initializers.RandomNormal(stddev=0.01)
        self.centers = self.add_weight(name="centers", shape=shape, initializer=initial)
        if self.softmax.kind == "adaface":  # the initial values of the authors' code
            options: dict[str, Any] = {"shape": (), "trainable": False, "aggregation": "only_first_replica"}
            self.norm_mean = self.add_weight(name="norm_mean", initializer=keras.initializers.Constant(20.0), **options)
            self.norm_deviation = self.add_weight(
                name="norm_deviation", initializer=keras.initializers.Constant(100.0), **options
            )

    def call(self, embedding: Tensor) -> Tensor:
        return self.softmax.scale * center_cosines(embedding, self.centers)

    def loss(self, labels: Tensor, embedding: Tensor, logits: Tensor, training: bool) -> Tensor:
        """The margin loss `(B,)` of labels `(B,)`; in training, AdaFace's statistics of the norms are updated before.

        The statistics are those of the global batch: 0.01 of the new and 0.99 of the earlier values, as in the paper;
        a batch of one example leaves them as they are, because it has no deviation.
        """
        quality = None
        if self.softmax.kind == "adaface":
            norms = embedding_norms(embedding)
            if training:
                self._update_statistics(norms)
            quality = adaface_quality(norms, self.norm_mean.value, self.norm_deviation.value)
        return margin_loss(logits / self.softmax.scale, labels, self.softmax, quality)

    def _update_statistics(self, norms: Tensor) -> None:
        sums = ops.stack([ops.cast(ops.shape(norms)[0], "float32"), ops.sum(norms)])
        count, total = ops.unstack(sum_over_replicas(sums), num=2)
        mean = total / ops.maximum(count, 1.0)
        square = sum_over_replicas(ops.sum(ops.square(norms - mean)))
        deviation = ops.sqrt(square / ops.maximum(count - 1.0, 1.0))
        part = ops.where(count > 1.0, NORM_MOMENTUM, 0.0)
        for variable, new in ((self.norm_mean, mean), (self.norm_deviation, deviation)):
            updated = variable.value + part * (new - variable.value)
            variable.assign(ops.where(ops.isfinite(updated), updated, variable.value))  # NaN would stay for ever

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "identities": self.identities, **self.softmax._asdict()}


@keras.saving.register_keras_serializable("kd_keras")
class Recognizer(keras.Model):
    """A model that `recognizer` built; `compile(optimizer)` and `fit` train it, because it has its own loss.

    It returns "embedding" `(B, D)`, not normalized, and "logits" `(B, K)`, the cosines to the centers of the training
    identities times the scale. Labels are `(B,)` integers from 0 to K - 1. `embedder` is the network without the head,
    which is saved, evaluated on other identities, and exported.

    >>> from kd_keras.models.resnet import resnet8
    >>> network = recognizer(embedder(resnet8((16, 16, 3), 2), dimension=8), 5)
    >>> network.embedder.output_shape, tuple(network.head.centers.shape)
    ((None, 8), (8, 5))
    """

    @property
    def head(self) -> MarginHead:
        """The margin softmax."""
        return self.get_layer("logits")

    @property
    def embedder(self) -> keras.Model:
        """The network from images to embeddings, sharing this model's layers."""
        name = self.name.removeprefix("recognizer_")
        return keras.Model(self.input, self.output["embedding"], name=name if name != self.name else "embedder")

    def check_labels(self, labels: Any) -> None:
        """Checks the labels of a batch before it is trained on, because the loss of an unknown identity is NaN.

        Raises:
            ValueError: if a label is not from 0 to K - 1.
        """
        check_identities(labels, self.head.identities, f"the identities of {self.name!r}")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The mean margin loss `()` float32, with the regularization losses, divided by the number of replicas.

        Raises:
            ValueError: if labels are not `(B,)` or `(B, 1)`.
        """
        shape = tuple(getattr(y, "shape", ("none",)))
        if y is None or len(shape) not in (1, 2) or (len(shape) == 2 and shape[-1] != 1):
            received = f"labels of shape {shape}"
            advice = "use integer labels, not one-hot ones, and no mixing of images"
            raise ValueError(explain_mismatch("labels (B,), the number of each image's identity", received, advice))
        labels = ops.reshape(y, (-1,))
        loss = self.head.loss(labels, y_pred["embedding"], y_pred["logits"], training)
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        penalty = sum((ops.sum(ops.cast(value, "float32")) for value in self.losses), ops.zeros(()))
        return (ops.mean(loss) + penalty) / replica_count()
