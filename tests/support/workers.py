"""Real worker processes on the loopback interface, for the tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def start(count, *command, **environment):
    """Starts so many workers of `python command`, each `{index}` in it replaced."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        own = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CONFIG": json.dumps(config), **environment}
        arguments = [sys.executable, *(str(part).replace("{index}", str(index)) for part in command)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(arguments, cwd=ROOT, env=own, **pipes))
    return processes


def finish(processes, timeout=240):
    """Waits for all; their exit codes, standard outputs and standard errors."""
    try:
        said = [each.communicate(timeout=timeout) for each in processes]
    finally:
        for each in processes:
            each.kill()
    return [each.returncode for each in processes], *zip(*said, strict=True)
