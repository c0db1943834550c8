"""Workers that wait for each other before TensorFlow starts."""

import socket
import threading
import time

import pytest

from kd_keras.distribute.rendezvous import meet_peers


def addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    names = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return names


def test_workers_that_start_at_different_times_meet():
    names, met = addresses(3), []

    def work(rank):
        time.sleep(0.4 * rank)
        meet_peers(names, rank, timeout=20)
        met.append(rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(met) == [0, 1, 2]
    for name in names:  # TensorFlow can use the ports now
        socket.create_server(("127.0.0.1", int(name.partition(":")[2]))).close()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_never_comes_is_named(rank):
    names, started = addresses(2), time.monotonic()
    with pytest.raises(TimeoutError, match=f"within 1 seconds worker {rank} has not met worker {1 - rank} "):
        meet_peers(names, rank, timeout=1)
    assert time.monotonic() - started < 5


def test_another_program_at_the_address_is_no_worker():
    names = addresses(2)
    with socket.create_server(("127.0.0.1", int(names[1].partition(":")[2]))):
        with pytest.raises(TimeoutError, match="has not met worker 1"):
            meet_peers(names, 0, timeout=1)
