"""Prepares datasets of TFDS: opens those that are on the disk, and downloads others with a limit of time."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from kd_keras.errors import explain_mismatch, suggest

EXPECTED = '"digits", a TFDS dataset or an existing folder of images'
# The threads of TFDS cannot be stopped, and Python waits for them at its exit.
PROGRAM = """
import logging, sys
import tensorflow_datasets as tfds

logging.getLogger("urllib3").setLevel(logging.ERROR)
name, directory, report = sys.argv[1:]
try:
    tfds.builder(name, data_dir=directory).download_and_prepare()
except BaseException as error:
    with open(report, "w") as file:
        file.write(f"{type(error).__name__}: {error}")
    sys.exit(1)
"""
logger = logging.getLogger("kd_keras")


def prepare(name: str, data_dir: str | os.PathLike | None, timeout: float) -> tfds.core.DatasetBuilder:
    """Opens a dataset of TFDS, and downloads it first if it is not prepared.

    Args:
        name: a name that TFDS understands.
        data_dir: the directory of TFDS datasets, or `None` for the default one.
        timeout: seconds without progress after which a download is given up.

    Raises:
        ValueError: if the dataset is unknown.
        FileNotFoundError: if it is neither prepared nor downloadable.
    """
    directory = _directory(data_dir)
    plain_name = name.split(":")[0].split("/")[0]
    if tf.io.gfile.exists(f"{directory}/{plain_name}"):
        builder = _open(name, data_dir)
        if builder.is_prepared():
            return builder
    elif plain_name not in tfds.list_builders(with_community_datasets=False):
        _open(name, data_dir)  # fails, without a network too
    prepared = _list_prepared(directory)
    logger.warning(
        "%s is not prepared under %s (prepared there: %s). A download starts now; it is given up after %g seconds "
        "without progress.", name, directory, ", ".join(prepared) or "nothing", timeout,
    )  # fmt: skip
    try:
        if tfds.builder_cls(plain_name).__module__.startswith("tensorflow_datasets."):
            download(name, directory, timeout)
        builder = _open(name, data_dir)
        if not builder.is_prepared():  # a dataset that only this process knows
            builder.download_and_prepare()
        return builder
    except Exception as error:  # of any type: the host, the proxy, the disk or TFDS itself may fail
        reason = str(error).splitlines()[0][:300] if str(error) else ""
        raise FileNotFoundError(
            f"The dataset {name!r} is neither prepared under {directory} nor downloadable: {type(error).__name__}: "
            f"{reason}. Prepared there: {', '.join(prepared) or 'none'}. Pass the data_dir of a prepared dataset, or a "
            "larger download_timeout."
        ) from error


def download(name: str, directory: str, timeout: float) -> None:
    """Downloads and prepares a dataset of TFDS in a process of its own, which can be stopped.

    Raises:
        TimeoutError: if the files under the directory do not change for `timeout` seconds.
        RuntimeError: if the download fails, with the reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = os.path.join(scratch, "report.txt")
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, name, directory, report])
        state, latest = _measure(directory), time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(min(0.5, timeout / 4))
                current = _measure(directory)
                if current != state:
                    state, latest = current, time.monotonic()
                elif time.monotonic() - latest > timeout:
                    raise TimeoutError(f"no progress for {timeout:g} seconds")
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            reason = Path(report).read_text() if os.path.exists(report) else f"exit code {process.returncode}"
            raise RuntimeError(reason)


def _open(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        prepared = _list_prepared(_directory(data_dir))
        advice = suggest(name, {*prepared, *tfds.list_builders(with_community_datasets=False)})
        if not advice.startswith("did you mean"):  # TFDS has hundreds of datasets, too many to list
            advice = f"prepared under {_directory(data_dir)}: {', '.join(prepared) or 'none'}"
        raise ValueError(explain_mismatch(EXPECTED, repr(name), advice)) from error
    except Exception as error:  # TFDS raises several types for an unknown version or configuration
        raise ValueError(explain_mismatch(EXPECTED, f"{name!r}: {str(error).splitlines()[0].rstrip('.')}")) from error


def _measure(directory: str) -> tuple[int, int]:
    """The number and the bytes of all files under a local directory."""
    sizes = []
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
            except OSError:  # renamed or deleted meanwhile
                sizes.append(0)
    return len(sizes), sum(sizes)


def _list_prepared(directory: str) -> list[str]:
    """The names of datasets prepared in a directory: `<name>/<version>/` or `<name>/<config>/<version>/`."""
    patterns = [f"{directory}/{depth}/dataset_info.json" for depth in ("*/*", "*/*/*")]
    paths = [path for pattern in patterns for path in tf.io.gfile.glob(pattern)]
    return sorted({path[len(directory) :].strip("/").split("/")[0] for path in paths})


def _directory(data_dir: str | os.PathLike | None) -> str:
    directory = str(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    return str(Path(directory).expanduser()) if "://" not in directory else directory
