"""DeiT: Touvron et al. 2021, *Training data-efficient image transformers & distillation through attention*, 2012.12877,
equations 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice, check_number, explain_mismatch
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.methods.labels import check_one_prediction, check_same_classes, match_units, refuse_binary, target_mask
from kd_keras.primitives import softened_kl

FORMS = ("hard", "soft")


def deit_loss(
    student: Sequence[Tensor],
    teacher: Tensor,
    labels: Tensor,
    *,
    form: str = "hard",
    share: float = 0.5,
    temperature: float = 3.0,
) -> Tensor:
    """The loss of both heads: that of the labels and that of the teacher, with the weights 1 - share and share.

    Hard: (1 - share) CE(y, p_class) + share CE(argmax z_t, p_distillation). Soft: (1 - share) CE(y, p_class)
    + share T^2 KL(softmax(z_t / T) || softmax(z_distillation / T)).

    Differs from the authors' code for "soft" in the KL divergence, which is summed over the classes here; there it is
    divided by their number, too.

    Args:
        student: the logits `(B, K)` of the head on the class token, and of that on the distillation token.
        teacher: `(B, K)` logits.
        labels: integers `(B,)` or `(B, 1)`, or probabilities `(B, K)`, as mixup makes them.
        form: "hard", the teacher's prediction as a second label, or "soft".
        share: of the teacher's term, from 0 to 1.
        temperature: T > 0, of "soft".

    Returns:
        `(B,)` float32, in nats, at least 0.

    Raises:
        ValueError: if labels are missing or of another shape, or the form is unknown.

    >>> import numpy as np
    >>> zeros = np.zeros((1, 2))
    >>> round(float(deit_loss([zeros, zeros], np.array([[1.0, 0.0]]), np.array([1]))[0]), 4)  # log 2 from each head
    0.6931
    """
    check_choice("deit_loss", "form", form, FORMS)
    class_logits, distillation_logits = student
    of_labels = _cross_entropy(class_logits, _distribution(labels, class_logits))
    if form == "soft":
        of_teacher = temperature**2 * softened_kl(distillation_logits, teacher, temperature)
    else:
        predicted = ops.one_hot(ops.argmax(teacher, axis=-1), teacher.shape[-1], dtype="float32")
        is_nan = ops.any(ops.isnan(teacher), axis=-1)  # of which argmax would make a class
        of_teacher = ops.where(is_nan, float("nan"), _cross_entropy(distillation_logits, predicted))
    return (1 - share) * of_labels + share * of_teacher


def _distribution(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels as probabilities `(B, K)`; a label that is not a class gives a row of zeros."""
    is_target = target_mask("DeiT", labels, logits)  # also refuses labels of another shape
    shape = tuple(labels.shape)
    is_distribution = len(shape) == 2 and shape[-1] == logits.shape[-1]
    return ops.cast(labels if is_distribution else is_target, "float32")


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -ops.sum(target * ops.log_softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)


@keras.saving.register_keras_serializable("kd_keras")
class DeiT(TapPairMethod):
    """The class token learns from the labels, the distillation token from the teacher's predictions.

    The student has two heads, such as `models.build("deit_tiny", ...)`, whose prediction is the mean of both. The loss
    contains that of the labels, so the hard loss has the weight 0. The published training takes 300 epochs with mixup,
    CutMix, RandAugment and AdamW at 5e-4 times batch_size / 512, and its best teacher is a convolutional network.

    Args:
        form: "hard", the published choice, or "soft".
        share: of the teacher's term, from 0 to 1; published are 0.5 for "hard" and 0.1 for "soft".
        temperature: T > 0, of "soft".
        **options: `student_tap`, the heads of the class token and of the distillation token; `teacher_tap`; `weight`;
            `name`.

    >>> DeiT(form="soft").share
    0.1
    """

    family = "logits"
    paper = "Touvron et al. 2021, 2012.12877"
    taps = Taps(("logits:class_head", "logits:distillation_head"), ("logits",))
    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        form: str = "hard",
        share: float | None = None,
        temperature: float = 3.0,
        **options: Unpack[TapPairOptions],
    ):
        super().__init__(**options)
        self.form = check_choice("DeiT", "form", form, FORMS)
        chosen = {"hard": 0.5, "soft": 0.1}[form] if share is None else share
        self.share = check_number("DeiT", "share", chosen, least=0, most=1)
        self.temperature = check_number("DeiT", "temperature", temperature, above=0)

    def bind(self, student: Specs, teacher: Specs) -> None:
        if len(self.taps.student) != 2 or len(self.taps.teacher) != 1:
            received = f"student_tap={self.taps.student} and teacher_tap={self.taps.teacher}"
            raise ValueError(explain_mismatch("two heads of the student and one of the teacher", received))
        target = teacher[self.taps.teacher[0]]
        for head in (student[tap] for tap in self.taps.student):
            if check_same_classes(head, target):
                raise ValueError(refuse_binary(self.name, head, target))
            check_one_prediction(self.name, head.shape)
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        heads, (target,) = self.tensors(student, teacher)
        target = match_units(target, heads[0])
        return deit_loss(heads, target, batch.label, form=self.form, share=self.share, temperature=self.temperature)
