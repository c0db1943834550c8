"""FT: Kim, Park, Kwak 2018, *Paraphrasing Complex Network: Network Compression via Factor Transfer*, 1802.04977,
its reconstruction loss and its factor transfer loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_choice, check_number, explain_mismatch
from kd_keras.methods.adapters import batch_norm, chain, conv, fan_in_initializers
from kd_keras.methods.base import Method, MethodOptions, Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import as_list, attention, flatten, l2_normalize, mean_square, pooled_to_common_size

FORMS = {"paper": lambda factor: l2_normalize(flatten(factor)), "attention": attention}


def ft_loss(student: Tensor, teacher: Tensor, *, form: str = "paper") -> Tensor:
    """The mean absolute difference of the factors, each normalized to one unit vector.

    Args:
        student: the student's factor `(B, H, W, C)`, or a list of factors, whose losses are added.
        teacher: the teacher's factor with the same channels; the larger of two sizes is average-pooled to the smaller.
        form: "paper" normalizes the whole factor, as the authors' and torchdistill's code; "attention" the mean of its
            squares over channels, as RepDistiller's.

    Returns:
        `(B,)` float32, at least 0; its mean over the batch is the mean over all elements of the vectors.

    Raises:
        ValueError: if the form is another.

    >>> import numpy as np
    >>> float(ft_loss(np.ones((1, 2, 2, 1)), -np.ones((1, 2, 2, 1)))[0])
    1.0
    """
    direction = FORMS[check_choice("ft_loss", "form", form, FORMS)]
    pairs = [pooled_to_common_size(*pair) for pair in zip(as_list(student), as_list(teacher), strict=True)]
    return sum(ops.mean(ops.abs(direction(factor) - direction(target)), axis=-1) for factor, target in pairs)


@keras.saving.register_keras_serializable("kd_keras")
class Paraphrase(Method):
    """The published first stage of FT: trains a paraphraser of the teacher's map, and no variables of the student.

    The encoder of the paraphraser, three 3x3 convolutions with LeakyReLU, makes the factor with `rate` times the
    channels of the map; its decoder, three transposed convolutions, reconstructs the map. The loss is the mean squared
    error of the reconstruction. Use it in a first `fit` with `hard_weight=0`, and pass the paraphraser to FT:

    >>> from kd_keras.methods import FT
    >>> paraphrase = Paraphrase()
    >>> paraphrase.bind(Specs({}), Specs({"stages[-1]": TapSpec("map", (None, 4, 4, 8))}))  # as a Distiller does
    >>> method = FT(paraphraser=paraphrase.paraphraser)
    >>> method.paraphraser.get_layer("encoder").output_shape
    (None, 4, 4, 4)

    Args:
        teacher_tap: the map to paraphrase; by default the last stage.
        rate: the channels of the factor as a fraction of the map's, greater than 0.
        **options: `weight`, by default 1, published for 30 epochs with a learning rate of 0.01 to 0.05 (RepDistiller);
            `name`.

    Attributes:
        paraphraser: a model from map to map, with the layers "encoder" and "decoder".
    """

    family = "features"
    paper = "Kim, Park, Kwak 2018, 1802.04977"
    taps = Taps((), ("stages[-1]",))
    trains_student = False
    published_hard_weight = 0.0

    def __init__(self, *, teacher_tap: str = "stages[-1]", rate: float = 0.5, **options: Unpack[MethodOptions]):
        super().__init__(**options)
        self.teacher_tap, self.taps = teacher_tap, Taps((), (teacher_tap,))
        self.rate = check_number("Paraphrase", "rate", rate, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.paraphraser = _build_paraphraser(teacher[self.teacher_tap], self.rate, self.name)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        maps = ops.cast(teacher[self.teacher_tap], "float32")
        return mean_square(self.paraphraser(maps, training=True), maps)


@keras.saving.register_keras_serializable("kd_keras")
class FT(TapPairMethod):
    """The factor that a translator makes of the student's map follows the factor that a paraphraser makes of the
    teacher's map.

    The published method has two stages: the paraphraser is trained first (`Paraphrase`), then passed to FT, which
    freezes it. Without one, FT builds a paraphraser and trains it with its reconstruction error at the same time; this
    single stage is not the published method.

    Args:
        paraphraser: a trained model of the teacher's map whose layer "encoder" makes the factor. It is frozen and
            decides the channels of the factor; its values are saved with the other variables.
        rate: without a paraphraser, the channels of the factor as a fraction of the map's.
        form: "paper", or "attention" as in RepDistiller; see `ft_loss`.
        reconstruction: without a paraphraser, the weight of its error within this loss; 0.002 is 1 after the default
            weight of 500.
        **options: `student_tap` and `teacher_tap`, by default the last stage; `weight`, by default 500 as in the
            authors' code for form "paper" on CIFAR-10, with a hard loss of 1; `name`. RepDistiller's tables use 200 for
            form "attention". Tune the weight: the mean falls as the factor grows.

    Raises:
        TypeError: if the paraphraser is not a Keras model.
        ValueError: if it has no encoder, or if the form is another.

    >>> FT(form="attention", weight=200.0).form
    'attention'
    """

    family = "features"
    paper = "Kim, Park, Kwak 2018, 1802.04977"
    taps = Taps(("stages[-1]",), ("stages[-1]",))
    default_weight = 500.0

    def __init__(
        self,
        *,
        paraphraser: keras.Model | None = None,
        rate: float = 0.5,
        form: str = "paper",
        reconstruction: float = 0.002,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.form = check_choice("FT", "form", form, FORMS)
        if paraphraser is not None:
            _check_paraphraser(paraphraser)
            paraphraser.trainable = False
        self.paraphraser: Any = paraphraser
        self.frozen = paraphraser is not None
        self.rate = check_number("FT", "rate", rate, above=0)
        self.reconstruction = check_number("FT", "reconstruction", reconstruction, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        student_spec, teacher_spec = self.pair(student, teacher, rank=4)
        if not self.frozen:
            self.paraphraser = _build_paraphraser(teacher_spec, self.rate, self.name)
        encoder = self.paraphraser.get_layer("encoder")
        if tuple(encoder.input_shape[1:]) != tuple(teacher_spec.shape[1:]):
            raise ValueError(
                f"Method {self.name!r} needs a paraphraser of the teacher's map {teacher_spec.layer!r} "
                f"{teacher_spec.shape}, but {self.paraphraser.name!r} reads maps {encoder.input_shape}. "
                "Train one with Paraphrase on this map."
            )
        self.translator = _build_encoder(student_spec, encoder.output_shape[-1], normalize=True, name="translator")
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        (student_maps,), (teacher_maps,) = self.tensors(student, teacher)
        teacher_maps = ops.cast(teacher_maps, "float32")
        factor = self.paraphraser.get_layer("encoder")(teacher_maps, training=not self.frozen)
        loss = ft_loss(self.translator(student_maps, training=True), ops.stop_gradient(factor), form=self.form)
        if self.frozen:
            return loss
        reconstructed = self.paraphraser.get_layer("decoder")(factor, training=True)
        return loss + self.reconstruction * mean_square(reconstructed, teacher_maps)

    def get_config(self) -> dict:
        paraphraser = keras.saving.serialize_keras_object(self.paraphraser) if self.frozen else None
        return {**super().get_config(), "paraphraser": paraphraser}

    @classmethod
    def from_config(cls, config: dict) -> FT:
        """The method with the layers of its paraphraser, whose values are loaded from the weights file."""
        paraphraser = config["paraphraser"] and keras.saving.deserialize_keras_object(config["paraphraser"])
        return super().from_config({**config, "paraphraser": paraphraser})


def _check_paraphraser(paraphraser: keras.Model) -> None:
    if not isinstance(paraphraser, keras.Model):
        raise TypeError(explain_mismatch("FT(paraphraser=...) to be a Keras model", f"a {type(paraphraser).__name__}"))
    names = [layer.name for layer in paraphraser.layers]
    if "encoder" not in names:
        expected = 'FT(paraphraser=...) to have a layer "encoder"'
        received = f"model {paraphraser.name!r} with the layers {names}"
        raise ValueError(explain_mismatch(expected, received, "train a paraphraser with Paraphrase"))


def _build_paraphraser(spec: TapSpec | list[TapSpec], rate: float, method: str) -> keras.Model:
    if isinstance(spec, list) or len(spec.shape) != 4:
        expected = f"one map (B, H, W, C) of the teacher for method {method!r}"
        raise ValueError(explain_mismatch(expected, str(spec), 'tap "stages[-1]"'))
    width = spec.shape[-1]
    encoder = _build_encoder(spec, max(1, int(width * rate)), normalize=False, name="encoder")
    widths = (encoder.output_shape[-1], width, width)
    steps = [layer for width in widths for layer in (_transposed(width), _leaky_relu())]
    decoder = chain(TapSpec("factor", encoder.output_shape), *steps, name="decoder")
    return chain(spec, encoder, decoder, name="paraphraser")


def _build_encoder(spec: TapSpec, width: int, normalize: bool, name: str) -> keras.Model:
    """Three 3x3 convolutions, each with LeakyReLU, from a map to a factor."""
    steps, inputs = [], spec.shape[-1]
    for channels in (spec.shape[-1], width, width):
        norm = [batch_norm()] if normalize else []
        options = {} if normalize else {"use_bias": True, **fan_in_initializers(9 * inputs)}
        steps += [conv(channels, 3, **options), *norm, _leaky_relu()]
        inputs = channels
    return chain(spec, *steps, name=name)


def _transposed(width: int) -> keras.layers.Layer:
    # PyTorch takes the fan-in of a transposed convolution from its output.
    return layers.Conv2DTranspose(width, 3, padding="same", **fan_in_initializers(9 * width), dtype="float32")


def _leaky_relu() -> keras.layers.Layer:
    return layers.LeakyReLU(negative_slope=0.1, dtype="float32")
