"""Python functions as operations of a `tf.data` pipeline that do not keep the interpreter from exiting.

A pipeline calls such a function from its own threads, even after its consumer has stopped because of an error. If the
interpreter is shut down during a call, the call never returns, and TensorFlow waits for it forever. Calls therefore end
before the shutdown, and later ones fail at once.
"""

from __future__ import annotations

import atexit
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

QUIET = 0.3  # seconds without a call after which a pipeline has filled its buffers and makes no further call
LONGEST_WAIT = 10.0  # seconds; a call that takes longer is not waited for


class _Calls:
    """Counts the calls that are running, and rejects new ones when the interpreter exits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running, self._latest, self._is_exiting = 0, 0.0, False

    def __enter__(self) -> None:
        with self._lock:
            self._latest = time.monotonic()
            if self._is_exiting:
                raise RuntimeError("The interpreter is exiting.")
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._running -= 1
            self._latest = time.monotonic()

    def finish(self) -> None:
        """Waits until all calls have ended and no new one has come for a while."""
        self._is_exiting = True
        start = time.monotonic()
        while self._latest and time.monotonic() - start < LONGEST_WAIT:
            if not self._running and time.monotonic() - self._latest > QUIET:
                return
            time.sleep(0.02)


_CALLS = _Calls()
atexit.register(_CALLS.finish)


def call_python(function: Callable[..., Any], inputs: Sequence[tf.Tensor], types: Any) -> Any:
    """Calls a function of NumPy arrays without side effects, as `tf.numpy_function` does.

    Args:
        function: takes an array for each input, and returns an array for each type.
        inputs: its arguments.
        types: the dtype of its result, or a list of them.

    >>> call_python(lambda x: x + 1, [tf.constant(1)], tf.int32).numpy().item()
    2
    """

    def counted(*arrays: Any) -> Any:
        with _CALLS:
            return function(*arrays)

    return tf.numpy_function(counted, inputs, types, stateful=False)


def plain_message(error: Exception) -> str:
    """The sentence of an error within a pipeline, without the names and tracebacks that TensorFlow adds.

    >>> plain_message(RuntimeError("{{function_node x}} Iterator::MapV2: ValueError: a.jpg is damaged.\\nTraceback"))
    'a.jpg is damaged.'
    """
    text = str(error)
    if "{{function_node" not in text and "assertion failed" not in text:
        return text
    match = re.search(r"assertion failed: \[(.*)\]", text) or re.search(r"\b\w+Error: (.*)", text)
    return match.group(1) if match else text
