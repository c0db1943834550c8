"""FT: Kim, Park, Kwak 2018, *Paraphrasing Complex Network: Network Compression via Factor Transfer*, 1802.04977,
its reconstruction loss and its factor transfer loss."""

from __future__ import annotations

import keras
from keras import layers, ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, convolution
from kd_keras.methods.base import Method, Specs, TapPairMethod, Taps
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import as_list, attention, flatten, l2_normalize, mean_square, pooled_to_common_size

FORMS = {"paper": lambda factor: l2_normalize(flatten(factor)), "attention": attention}


def ft_loss(student: Tensor, teacher: Tensor, *, form: str = "paper") -> Tensor:
    """The mean absolute difference of the factors, each as one unit vector.

    Args:
        student: the student's factor `(B, H, W, C)`, or a list of factors, over which is summed.
        teacher: the teacher's factor, of the same channels; the larger of two sizes is average-pooled to the smaller.
        form: "paper" takes all of a factor as the vector, as the authors' and torchdistill's code; "attention" the
            mean of its squares over channels, as RepDistiller's.

    Returns:
        `(B,)` float32, 0 or more; its mean over the batch is the mean over all elements of the vectors.

    Raises:
        ValueError: for another form.

    >>> import numpy as np
    >>> float(ft_loss(np.ones((1, 2, 2, 1)), -np.ones((1, 2, 2, 1)))[0])
    1.0
    """
    if form not in FORMS:
        raise ValueError(explain_mismatch('the form "paper" or "attention"', repr(form)))
    direction = FORMS[form]
    pairs = [pooled_to_common_size(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True)]
    return sum(ops.mean(ops.abs(direction(ours) - direction(theirs)), axis=-1) for ours, theirs in pairs)


@keras.saving.register_keras_serializable("kd_keras")
class Paraphrase(Method):
    """The published first stage of FT: trains a paraphraser of the teacher's map, and none of the student's
    trainable variables.

    The paraphraser's encoder makes the factor, three convolutions 3x3 to `rate` times the channels with LeakyReLU, and
    its decoder, three transposed ones, the map from it again; the loss is the mean squared error of that. Used in a
    first `fit` with `hard_weight=0`, and handed on:

    >>> from kd_keras.methods import FT
    >>> paraphrase = Paraphrase()
    >>> paraphrase.bind(Specs({}), Specs({"stages[-1]": TapSpec("map", (None, 4, 4, 8))}))  # as a Distiller does
    >>> method = FT(paraphraser=paraphrase.paraphraser)
    >>> method.paraphraser.get_layer("encoder").output_shape
    (None, 4, 4, 4)

    Args:
        teacher_tap: the map to paraphrase, by default that of the last stage.
        rate: the factor's channels as a part of the map's, greater than 0.
        weight: 1, in 30 epochs with a learning rate of 0.01 to 0.05 in RepDistiller's tables.
        name: the term's name in the log.

    Attributes:
        paraphraser: a model from map to map, with the layers "encoder" and "decoder".
    """

    family = "features"
    trains_student = False
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        teacher_tap: str = "stages[-1]",
        rate: float = 0.5,
        weight: Weight = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        self.teacher_tap, self.taps = teacher_tap, Taps(student=(), teacher=(teacher_tap,))
        self.rate = check_number("Paraphrase", "rate", rate, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.paraphraser = _paraphraser(teacher[self.teacher_tap], self.rate, self.name)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        maps = ops.cast(teacher[self.teacher_tap], "float32")
        return mean_square(self.paraphraser(maps, training=True), maps)


@keras.saving.register_keras_serializable("kd_keras")
class FT(TapPairMethod):
    """The student's factor, which a translator makes of its map, follows the teacher's, which a paraphraser makes.

    The published method has two stages: first the paraphraser is trained (`Paraphrase`), then it is given here and is
    frozen. Without one, FT builds its own and trains it along by the reconstruction's error; that is one stage, and
    not the published method.

    Args:
        student_tap: the map to translate, by default that of the last stage.
        teacher_tap: the map that is paraphrased.
        paraphraser: a trained model of the teacher's map whose layer "encoder" makes the factor. It becomes frozen, and
            decides the factor's channels; its values are saved with the other variables.
        rate: without a paraphraser, the factor's channels as a part of the map's.
        form: "paper", or "attention" as in RepDistiller; see `ft_loss`.
        reconstruction: without a paraphraser, what its error counts within this loss; by default 1 after the weight.
        weight: 500 in the authors' code for form "paper" on CIFAR-10, beside a hard loss of 1; 200 in RepDistiller's
            tables for form "attention". To be tuned: the mean falls as the factor grows.
        name: the term's name in the log.

    Raises:
        TypeError: where the paraphraser is no model.
        ValueError: where it has no encoder, or the form is another.
    """

    family = "features"

    def __init__(
        self,
        *,
        student_tap: str = "stages[-1]",
        teacher_tap: str = "stages[-1]",
        paraphraser: keras.Model | None = None,
        rate: float = 0.5,
        form: str = "paper",
        reconstruction: float = 0.002,
        weight: Weight = 500.0,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        if form not in FORMS:
            raise ValueError(explain_mismatch('FT(form=...) "paper" or "attention"', repr(form)))
        if paraphraser is not None:
            _check_paraphraser(paraphraser)
            paraphraser.trainable = False
        self.paraphraser, self.frozen = paraphraser, paraphraser is not None
        self.rate = check_number("FT", "rate", rate, above=0)
        self.form = form
        self.reconstruction = check_number("FT", "reconstruction", reconstruction, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        ours, theirs = self.pair(student, teacher, rank=4)
        if not self.frozen:
            self.paraphraser = _paraphraser(theirs, self.rate, self.name)
        encoder = self.paraphraser.get_layer("encoder")
        if tuple(encoder.input_shape[1:]) != tuple(theirs.shape[1:]):
            came = f"teacher {theirs.layer!r} {theirs.shape}, {encoder.input_shape} of {self.paraphraser.name!r}"
            remedy = "train one with Paraphrase on this teacher's map"
            raise ValueError(explain_mismatch("a paraphraser of the teacher's map", came, remedy))
        self.translator = _encoder(ours, encoder.output_shape[-1], normalised=True, name="translator")
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (ours,), (theirs,) = self.tensors(student, teacher)
        maps = ops.cast(theirs, "float32")
        factor = self.paraphraser.get_layer("encoder")(maps, training=not self.frozen)
        loss = ft_loss(self.translator(ours, training=True), ops.stop_gradient(factor), form=self.form)
        if self.frozen:
            return loss
        again = self.paraphraser.get_layer("decoder")(factor, training=True)
        return loss + self.reconstruction * mean_square(again, maps)

    def get_config(self) -> dict:
        paraphraser = keras.saving.serialize_keras_object(self.paraphraser) if self.frozen else None
        return {**super().get_config(), "paraphraser": paraphraser}

    @classmethod
    def from_config(cls, config: dict) -> FT:
        """The same method; a given paraphraser has its layers, and its values come with the file."""
        paraphraser = config["paraphraser"] and keras.saving.deserialize_keras_object(config["paraphraser"])
        return super().from_config({**config, "paraphraser": paraphraser})


def _check_paraphraser(paraphraser: keras.Model) -> None:
    if not isinstance(paraphraser, keras.Model):
        raise TypeError(explain_mismatch("FT(paraphraser=...) as a Keras model", type(paraphraser).__name__))
    names = [layer.name for layer in paraphraser.layers]
    if "encoder" not in names:
        came, remedy = f"{paraphraser.name!r} with {names}", "train one with Paraphrase"
        raise ValueError(explain_mismatch('FT(paraphraser=...) with a layer "encoder"', came, remedy))


def _paraphraser(spec: TapSpec | list[TapSpec], rate: float, method: str) -> keras.Model:
    if isinstance(spec, list) or len(spec.shape) != 4:
        raise ValueError(explain_mismatch(f"one map (B, H, W, C) for {method!r}", f"teacher {spec}", 'tap "stages[-1]"'))
    width = spec.shape[-1]
    encoder = _encoder(spec, max(1, int(width * rate)), normalised=False, name="encoder")
    widths = (encoder.output_shape[-1], width, width)
    options = {"padding": "same", "kernel_initializer": "he_normal", "dtype": "float32"}
    steps = [layer for w in widths for layer in (layers.Conv2DTranspose(w, 3, **options), _activation())]
    decoder = chain(TapSpec("factor", encoder.output_shape), *steps, name="decoder")
    return chain(spec, encoder, decoder, name="paraphraser")


def _encoder(spec: TapSpec, width: int, normalised: bool, name: str) -> keras.Model:
    """Three convolutions 3x3, each with LeakyReLU, from a map to a factor."""
    steps = []
    for channels in (spec.shape[-1], width, width):
        norm = [batch_norm()] if normalised else []
        steps += [convolution(channels, 3, use_bias=not normalised), *norm, _activation()]
    return chain(spec, *steps, name=name)


def _activation() -> keras.layers.Layer:
    return layers.LeakyReLU(negative_slope=0.1, dtype="float32")
