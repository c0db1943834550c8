"""CC: Peng et al. 2019, *Correlation Congruence for Knowledge Distillation*, 1904.01802, section 3."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops
from typing_extensions import Unpack

from kd_keras.contracts import Batch, Outputs, Step, Tensor
from kd_keras.errors import check_choice, check_number, check_whole_number
from kd_keras.methods.adapters import dense_adapter
from kd_keras.methods.base import Specs, TapPairMethod, TapPairOptions, Taps
from kd_keras.primitives import flatten, root

KERNELS = ("gaussian", "bilinear")


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over neighbors i, i + 1 in the batch of sum_d |s_i,d - t_i,d| |s_i+1,d - t_i+1,d|.

    Differs from the paper, which compares kernel matrices (`cc_kernel_loss`); this is the code that its author gave to
    RepDistiller, to which the published weight belongs. It depends on the order of the batch.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D)`.

    Returns:
        `()` float32, at least 0; zero for a batch of one.

    >>> import numpy as np
    >>> float(cc_loss(np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1))))  # (B, D): the mean of 1 * 2 and 2 * 3
    4.0
    """
    difference = ops.abs(flatten(student) - flatten(teacher))
    pairs = ops.cast(ops.shape(difference)[0] - 1, "float32")
    return ops.sum(difference[:-1] * difference[1:]) / ops.maximum(pairs, 1.0)


def cc_kernel_loss(
    student: Tensor, teacher: Tensor, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """||K_s - K_t||_F / B^2, where K_ij is a kernel of the examples i and j.

    "bilinear" is x . y; "gaussian" is exp(-2 gamma) sum_p (2 gamma x . y)^p / p! up to p = order, which approximates
    exp(-gamma ||x - y||^2) for unit vectors. As in torchdistill, the vectors are not normalized.

    Differs from the paper, whose norm is squared; as in torchdistill it is not.

    Args:
        student: embeddings `(B, D)`.
        teacher: embeddings `(B, D')`.
        kernel: "gaussian" or "bilinear".
        gamma: the parameter of the Gaussian, greater than 0.
        order: the highest power in the Taylor series of the Gaussian, at least 1.

    Returns:
        `()` float32, at least 0. Memory: B^2.

    Raises:
        ValueError: if the kernel is another.

    >>> import numpy as np
    >>> orthogonal, equal = np.eye(2), np.ones((2, 1))  # (B, D)
    >>> round(float(cc_kernel_loss(orthogonal, equal, kernel="bilinear")), 4)  # sqrt(2) / 4
    0.3536
    """
    check_choice("cc_kernel_loss", "kernel", kernel, KERNELS)
    options: dict[str, Any] = {"kernel": kernel, "gamma": gamma, "order": order}
    difference = _kernel_matrix(student, **options) - _kernel_matrix(teacher, **options)
    largest = ops.stop_gradient(ops.max(ops.abs(difference)))  # the squares of large powers exceed float32
    scale = ops.where(largest > 0, largest, 1.0)
    square = ops.mean(ops.square(difference / scale))
    # The root is ||.||_F / (B scale).
    return scale * root(square) / ops.cast(ops.shape(difference)[0], "float32")


def _kernel_matrix(x: Tensor, kernel: str, gamma: float, order: int) -> Tensor:
    """K, `(B, B)`."""
    x = flatten(x)
    gram = ops.matmul(x, ops.transpose(x))
    if kernel == "bilinear":
        return gram
    series = sum((2 * gamma) ** power / math.factorial(power) * gram**power for power in range(1, order + 1))
    return math.exp(-2 * gamma) * (1 + series)


@keras.saving.register_keras_serializable("kd_keras")
class CC(TapPairMethod):
    """The student's embedding follows the teacher's; a component counts more if the next example deviates in it too.

    Both sides pass a trainable linear layer. This loss alone trains the teacher's layer, which can therefore shrink
    until the loss is zero and teaches nothing: keep the weight small, and add a hard loss or KD.

    Args:
        width: the width of both linear layers.
        across_replicas: whether neighbors are those of the global batch.
        **options: `student_tap` and `teacher_tap`, by default the embedding; `weight`, by default 0.02 as in the
            published CIFAR-100 tables, with a hard loss of 1; `name`.

    >>> CC(width=64).width
    64
    """

    least_examples = 2
    family = "relations"
    paper = "Peng et al. 2019, 1904.01802"
    taps = Taps(("embedding",), ("embedding",))
    default_weight = 0.02

    def __init__(self, *, width: int = 128, across_replicas: bool = False, **options: Unpack[TapPairOptions]):
        super().__init__(**options)
        self.width = check_whole_number(type(self).__name__, "width", width)
        self.across_replicas = across_replicas

    def bind(self, student: Specs, teacher: Specs) -> None:
        self.embedders = [dense_adapter(spec, self.width) for spec in self.pair(student, teacher, rank=2)]
        super().bind(student, teacher)

    def call(self, student: Outputs, teacher: Outputs, batch: Batch, step: Step) -> Tensor:
        vectors = [tensors[0] for tensors in self.tensors(student, teacher)]
        embeddings = [embed(vector, training=True) for embed, vector in zip(self.embedders, vectors, strict=True)]
        return self.compare(*embeddings)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of the embeddings `(B, width)` of both sides."""
        return cc_loss(student, teacher)


class CCOptions(TapPairOptions, total=False):
    """The arguments of `CC`, which `CCKernel` passes on."""

    width: int
    across_replicas: bool


@keras.saving.register_keras_serializable("kd_keras")
class CCKernel(CC):
    """The kernel matrix of the student's embeddings follows that of the teacher's.

    Both sides pass a trainable linear layer, as in torchdistill; the warning of `CC` applies here too.

    Args:
        kernel: "gaussian" or "bilinear".
        gamma: the parameter of the Gaussian, greater than 0.
        order: the highest power in the Taylor series of the Gaussian, at least 1.
        **options: `width`, `across_replicas`, `student_tap`, `teacher_tap` and `name`, as for `CC`; `weight`, by
            default 0.003 as in torchdistill's ImageNet recipe, with KD of temperature 1 and weight 1, no hard loss, and
            batches of 32. The loss falls with the batch size: tune the weight.

    >>> CCKernel(kernel="bilinear").kernel
    'bilinear'
    """

    default_weight = 0.003
    published_hard_weight = 0.0

    def __init__(self, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2, **options: Unpack[CCOptions]):
        super().__init__(**options)
        self.kernel = check_choice("CCKernel", "kernel", kernel, KERNELS)
        self.gamma = check_number("CCKernel", "gamma", gamma, above=0)
        self.order = check_whole_number("CCKernel", "order", order)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cc_kernel_loss(student, teacher, kernel=self.kernel, gamma=self.gamma, order=self.order)
