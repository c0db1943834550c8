"""Real worker processes on the loopback interface, for the tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def start(count, *command, **environment):
    """Starts `count` workers of `python command`, with the worker's index in place of `{index}`."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CONFIG": json.dumps(config), **environment}
        arguments = [sys.executable, *(str(part).replace("{index}", str(index)) for part in command)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(arguments, cwd=ROOT, env=variables, **pipes))
    return processes


def finish(processes, timeout=240):
    """Waits for all processes; returns their exit codes, standard outputs and standard errors."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*outputs, strict=True)
