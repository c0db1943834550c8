"""What happens when a program starts, before it imports TensorFlow, which takes seconds."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

# Notes that TensorFlow prints before any setting in Python can silence them, for example that there is no GPU.
NOISE = re.compile(rb"WARNING: All log messages before absl|[IW]0000 |E0000 .* failed call to cuInit|To enable the ")

INTERRUPTED = 130


def import_quietly() -> None:
    """Imports TensorFlow and looks for GPUs without TensorFlow's notes, and lets Ctrl-C end the process at once.

    A child process filters the standard error, so that everything else is shown even if the import crashes.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # no traceback out of the middle of an import
    if not hasattr(os, "fork"):
        return
    error = os.dup(2)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        _forward(read, error)
        os._exit(0)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # prints a note if the driver is missing
    finally:
        sys.stderr.flush()
        os.dup2(error, 2)
        os.close(error)
        _wait(child)


def _wait(child: int, seconds: float = 2.0) -> None:
    """Waits for a child process, but not for ever: another process may have inherited the standard error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.005)


def _forward(read: int, error: int) -> None:
    """Writes the lines that are not noise."""
    with open(read, "rb") as lines, open(error, "wb", buffering=0) as output:
        for line in lines:
            if not NOISE.match(line):
                output.write(line)
