"""CC: Peng et al. 2019, *Correlation Congruence for Knowledge Distillation*, 1904.01802, section 3."""

from __future__ import annotations

import math

import keras
from keras import initializers, ops

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor
from kd_keras.errors import check_number, check_whole_number, explain_mismatch
from kd_keras.methods.adapters import linear
from kd_keras.methods.base import Specs, TapPairMethod
from kd_keras.methods.schedules import Weight
from kd_keras.primitives import flatten

KERNELS = ("gaussian", "bilinear")


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over neighbours i, i + 1 in the batch of sum_d |s_i,d - t_i,d| |s_i+1,d - t_i+1,d|.

    Differs from the paper, which compares kernel matrices (`cc_kernel_loss`); this is the code that its author gave to
    RepDistiller, to which the published weight belongs. It depends on the batch's order.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D)`.

    Returns:
        `()` float32, 0 or more; zero for a batch of one.

    >>> import numpy as np
    >>> float(cc_loss(np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1))))  # (B, D): the mean of 1 * 2 and 2 * 3
    4.0
    """
    apart = ops.abs(flatten(student) - flatten(teacher))
    pairs = ops.cast(ops.shape(apart)[0] - 1, "float32")
    return ops.sum(apart[:-1] * apart[1:]) / ops.maximum(pairs, 1.0)


def cc_kernel_loss(
    student: Tensor, teacher: Tensor, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """||K_s - K_t||_F / B^2, where K_ij is a kernel of the examples i and j.

    "bilinear" is x . y; "gaussian" is exp(-2 gamma) sum_p (2 gamma x . y)^p / p! up to p = order, which approximates
    exp(-gamma ||x - y||^2) for unit vectors. As torchdistill does, it takes the vectors as they come.

    Differs from the paper, whose norm is squared; as in torchdistill it is not.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.
        kernel: "gaussian" or "bilinear".
        gamma: of the Gaussian, greater than 0.
        order: the highest power in the Gaussian's Taylor series, 1 or more.

    Returns:
        `()` float32, 0 or more. Memory: B^2.

    Raises:
        ValueError: for another kernel.

    >>> import numpy as np
    >>> apart, together = np.eye(2), np.ones((2, 1))  # (B, D)
    >>> round(float(cc_kernel_loss(apart, together, kernel="bilinear")), 4)  # sqrt(2) / 4
    0.3536
    """
    rule = {"kernel": kernel, "gamma": gamma, "order": order}
    if kernel not in KERNELS:
        raise ValueError(explain_mismatch(f"a kernel, one of {', '.join(KERNELS)}", repr(kernel)))
    difference = _matrix(student, **rule) - _matrix(teacher, **rule)
    largest = ops.stop_gradient(ops.max(ops.abs(difference)))  # large powers, squared, leave float32's range
    scale = ops.where(largest > 0, largest, 1.0)
    square = ops.mean(ops.square(difference / scale))
    root = ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)  # ||.||_F / (B scale)
    return scale * root / ops.cast(ops.shape(difference)[0], "float32")


def _matrix(x: Tensor, kernel: str, gamma: float, order: int) -> Tensor:
    """K, `(B, B)`."""
    x = flatten(x)
    gram = ops.matmul(x, ops.transpose(x))
    if kernel == "bilinear":
        return gram
    series = sum((2 * gamma) ** power / math.factorial(power) * gram**power for power in range(1, order + 1))
    return math.exp(-2 * gamma) * (1 + series)


def _embedding(spec: TapSpec, width: int) -> keras.Sequential:
    """A linear layer with the initial values of the published code, which the size of the loss depends on: uniform
    up to 1 / sqrt(D)."""
    limit = spec.shape[-1] ** -0.5
    kernel, bias = (initializers.RandomUniform(-limit, limit) for _ in range(2))
    return linear(spec, width, kernel_initializer=kernel, bias_initializer=bias)


@keras.saving.register_keras_serializable("kd_keras")
class CC(TapPairMethod):
    """The student's embedding follows the teacher's; a component counts more where neighbouring examples are off in it
    too.

    Both sides go through a trainable linear layer. The teacher's is trained by this loss alone, and so can shrink
    until the loss is zero and teaches nothing: keep the weight small, and a hard loss or KD beside it.

    Args:
        width: of the two linear embeddings.
        student_tap: the vector, by default the embedding.
        teacher_tap: what it follows.
        across_replicas: whether neighbours are those of the global batch.
        weight: 0.02 in the published CIFAR-100 tables, beside a hard loss of 1.
        name: the term's name in the log.
    """

    family = "relations"

    def __init__(
        self,
        *,
        width: int = 128,
        student_tap: str = "embedding",
        teacher_tap: str = "embedding",
        across_replicas: bool = False,
        weight: Weight = 0.02,
        name: str | None = None,
    ):
        super().__init__(student_tap=student_tap, teacher_tap=teacher_tap, weight=weight, name=name)
        self.width = check_whole_number(type(self).__name__, "width", width)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.embeddings = [_embedding(spec, self.width) for spec in self.pair(student, teacher, rank=2)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        given = (vector for (vector,) in self.tensors(student, teacher))
        return self.between(*(embed(vector, training=True) for embed, vector in zip(self.embeddings, given)))

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of both sides' vectors `(B, width)`."""
        return cc_loss(student, teacher)


@keras.saving.register_keras_serializable("kd_keras")
class CCKernel(CC):
    """The kernel matrix of the student's embeddings follows that of the teacher's.

    Both sides go through a trainable linear layer, as in torchdistill; see CC for what that may lead to.

    Args:
        kernel: "gaussian" or "bilinear".
        gamma: of the Gaussian, greater than 0.
        order: the highest power in the Gaussian's Taylor series, 1 or more.
        width: of the two linear embeddings.
        student_tap: the vector, by default the embedding.
        teacher_tap: what it follows.
        across_replicas: whether to compare the examples of the global batch.
        weight: 0.003 in torchdistill's ImageNet recipe, beside KD of temperature 1 and weight 1 and no hard loss, with
            32 examples a batch. The loss falls with the batch's size: tune the weight.
        name: the term's name in the log.
    """

    published_hard_weight = 0.0

    def __init__(
        self,
        *,
        kernel: str = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
        width: int = 128,
        student_tap: str = "embedding",
        teacher_tap: str = "embedding",
        across_replicas: bool = False,
        weight: Weight = 0.003,
        name: str | None = None,
    ):
        taps = {"student_tap": student_tap, "teacher_tap": teacher_tap}
        super().__init__(width=width, across_replicas=across_replicas, weight=weight, name=name, **taps)
        if kernel not in KERNELS:
            raise ValueError(explain_mismatch(f"CCKernel(kernel=...) one of {', '.join(KERNELS)}", repr(kernel)))
        self.kernel = kernel
        self.gamma = check_number("CCKernel", "gamma", gamma, above=0)
        self.order = check_whole_number("CCKernel", "order", order)

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cc_kernel_loss(student, teacher, **self._rule())

    def _rule(self) -> dict:
        return {"kernel": self.kernel, "gamma": self.gamma, "order": self.order}
