"""The maths that several methods share, in `keras.ops` and float32.

So far the softened Kullback-Leibler divergence. Every function takes the student first.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any  # as kd_keras.contracts has it, on the same floor


def softened_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(p_t || p_s) of the distributions softened by a temperature, an example at a time.

    p = softmax(z / T) and KL(p_t || p_s) = sum_k p_t,k (log p_t,k - log p_s,k), from log-softmax, so that it stays
    finite for logits of any finite size. There is no T^2 here.

    At a high temperature the two nearly agree and the terms of that sum nearly cancel, which costs float32 four of its
    seven digits. Adding sum_k (p_s,k - p_t,k), which is zero, makes every term p_t (d + exp(-d) - 1) with
    d = log p_t - log p_s: none is negative, and a rounding error in d counts only d times itself.

    Args:
        student: `(B, K)` logits z_s, any float dtype; computed in float32.
        teacher: `(B, K)` logits z_t; no gradient is stopped here.
        temperature: T > 0.

    Returns:
        `(B,)` float32, in nats, 0 or more.

    >>> import numpy as np
    >>> round(float(softened_kl(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))[0]), 4)
    0.1308
    """
    log_student = ops.log_softmax(ops.cast(student, "float32") / temperature, axis=-1)
    log_teacher = ops.log_softmax(ops.cast(teacher, "float32") / temperature, axis=-1)
    p_student, p_teacher, d = ops.exp(log_student), ops.exp(log_teacher), log_teacher - log_student
    near = d > -30.0  # else p_s is all of the term, and exp(-d) may overflow
    term = p_teacher * (d + ops.expm1(-ops.where(near, d, 0.0)))
    return ops.sum(ops.where(near, term, p_student - p_teacher + p_teacher * d), axis=-1)
