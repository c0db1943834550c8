"""Waits until all workers of a cluster have started, before TensorFlow does, which would wait for an hour or for ever.

Every worker listens at its own address, which TensorFlow uses afterwards, and greets all others. When a worker has
greeted and has been greeted by every other worker, it continues.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Sequence

GREETING = re.compile(rb"kd_keras worker (\d+)\n")
POLL = 0.2  # seconds


def meet_peers(addresses: Sequence[str], rank: int, timeout: float) -> None:
    """Waits until this worker and each other worker have met.

    Args:
        addresses: `"host:port"` of every worker, by rank.
        rank: the rank of this worker.
        timeout: the longest time to wait, in seconds.

    Raises:
        TimeoutError: if a worker has not come; the message names it.

    >>> meet_peers(["localhost:1"], rank=0, timeout=1.0)
    """
    others = set(range(len(addresses))) - {rank}
    greeted: set[int] = set()
    accepted: set[int] = set()
    if not others:
        return
    deadline = time.monotonic() + timeout
    with _listening(addresses[rank], deadline) as listener:
        while not (greeted == accepted == others):
            if time.monotonic() > deadline:
                missing = ", ".join(f"{peer} ({addresses[peer]})" for peer in sorted(others - (greeted & accepted)))
                raise TimeoutError(
                    f"Expected all {len(addresses)} workers of the cluster, but within {timeout:g} seconds worker "
                    f"{rank} has not met worker {missing}. Start all workers again, or wait longer with "
                    "worker_timeout."
                )
            greeted |= {peer for peer in others - greeted if _greet(addresses[peer], rank)}
            accepted |= others & set(_accept_all(listener))


@contextlib.contextmanager
def _listening(address: str, deadline: float) -> Iterator[socket.socket]:
    host, port = _split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            listener = socket.create_server(("", port), family=family)
            break
        except OSError as error:  # a worker of an earlier start may not have ended yet
            if time.monotonic() > deadline:
                raise OSError(
                    f"Expected a free port at this worker's address {address}, but received: {error.strerror}. End the "
                    "program that uses it, or choose another port."
                ) from error
            time.sleep(POLL)
    with listener:
        listener.settimeout(POLL)
        yield listener


def _greet(address: str, rank: int) -> bool:
    """Greets a worker, and returns whether it listens."""
    try:
        with socket.create_connection(_split(address), timeout=POLL) as connection:
            connection.sendall(f"kd_keras worker {rank}\n".encode())
        return True
    except OSError:
        return False


def _accept_all(listener: socket.socket) -> Iterator[int]:
    """The ranks of the workers that greet until none does for a moment."""
    with contextlib.suppress(TimeoutError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(POLL)
                greeting = GREETING.fullmatch(connection.recv(100))
                if greeting:
                    yield int(greeting[1])


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
