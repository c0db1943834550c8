"""Python functions in a pipeline: the process ends, whatever they are doing."""

import subprocess
import sys

import pytest
import tensorflow as tf

from kd_keras.data.python_calls import call_python

EXITING = """
import time
import tensorflow as tf
from kd_keras.data.python_calls import call_python

def slow(number):
    if number == 20:
        raise ValueError("the example is damaged")
    time.sleep(0.02 if number < 20 else 0.5)
    return number

@tf.function
def step(iterator):
    return next(iterator)

def main():
    data = tf.data.Dataset.range(10**9).map(lambda number: call_python(slow, [number], tf.int64), num_parallel_calls=8)
    iterator = iter(data.prefetch(8))
    while True:
        step(iterator)

main()
"""


def test_a_process_ends_after_an_error_while_other_calls_are_running():
    process = subprocess.run([sys.executable, "-c", EXITING], capture_output=True, text=True, timeout=120)
    assert process.returncode == 1 and "the example is damaged" in process.stderr


def test_an_error_of_the_function_keeps_its_message():
    def fail(number):
        raise ValueError(f"example {number} is damaged")

    data = tf.data.Dataset.range(3).map(lambda number: call_python(fail, [number], tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="example 0 is damaged"):
        list(data)
