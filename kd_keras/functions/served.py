"""A network behind TensorFlow Serving's REST interface as a teacher: batches, retries and time-outs."""

from __future__ import annotations

import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from kd_keras.errors import check_number, check_whole_number, explain_mismatch, shorten
from kd_keras.functions.images import fit_images, to_type
from kd_keras.functions.outputs import select_output
from kd_keras.functions.teacher import FunctionTeacher, Origin

LOG = logging.getLogger("kd_keras")
LONGEST_WAIT = 30.0  # seconds between two attempts
SIGNATURE = "serving_default"


def served_teacher(
    url: str,
    *,
    output: str | None = None,
    batch_size: int = 32,
    timeout: float = 60.0,
    retries: int = 5,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> FunctionTeacher:
    """A network on a server as a teacher, by the REST interface of TensorFlow Serving (predict, row format).

    Images are sent as `{"instances": [...]}` and come back as `{"predictions": [...]}`. The type and the shape of the
    input are those of the server's `.../metadata`; a server without it receives float32. If a request fails because the
    server cannot be reached, does not reply in time or is overloaded (429 or 5xx), it is repeated after 1, 2, 4, ...
    seconds.

    Args:
        url: such as "http://localhost:8501/v1/models/resnet", with or without ":predict".
        output: the name of the output; by default the only one, or "logits".
        batch_size: the largest number of images in one request.
        timeout: seconds without a reply after which an attempt has failed, greater than 0.
        retries: the number of further attempts after the first one, 0 or more.
        headers: further headers of each request, such as an authorization.
        **options: `tap`, `probabilities`, `preprocess` and `class_order` of `FunctionTeacher`.

    Raises:
        TypeError: if `timeout` or `retries` is not a number.
        ValueError: if the address is no HTTP address, or a number is out of range. When the teacher is asked: if the
            server rejects a request, or its reply has another form.
        ConnectionError: when the teacher is asked, if all attempts fail.

    >>> served_teacher("http://localhost:8501/v1/models/resnet").origin.name
    "the server 'http://localhost:8501/v1/models/resnet'"
    """
    parts = urlsplit(url if isinstance(url, str) else "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        expected = "an address such as http://localhost:8501/v1/models/NAME"
        raise ValueError(explain_mismatch(expected, shorten(url)))
    check_whole_number("Teacher.served", "batch_size", batch_size)
    check_whole_number("Teacher.served", "retries", retries, least=0)
    check_number("Teacher.served", "timeout", timeout, above=0)
    client = Client(url.removesuffix(":predict"), float(timeout), int(retries), dict(headers or {}))
    ask = _Served(client, output, int(batch_size))
    identity = {"served": urlsplit(client.url).path, "output": output}  # the same model may move to another host
    return FunctionTeacher(ask, Origin(f"the server {client.url!r}", identity), **options)


class Rejected(ValueError):
    """A request that the server rejects, so that it is not repeated; `status` is the HTTP status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass
class Client:
    """Sends requests to a server and repeats those that fail.

    Attributes:
        url: of the model.
        timeout: seconds.
        retries: attempts after the first one.
        headers: of each request.
    """

    url: str
    timeout: float
    retries: int
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, suffix: str, body: Any = None) -> Any:
        """The JSON reply to a GET request, or to a POST request if there is a body.

        Raises:
            ConnectionError: if all attempts fail.
            Rejected: if the server rejects the request.
            ValueError: if the reply is no JSON.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(self.url + suffix, content, headers)
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                wait = min(2.0 ** (attempt - 1), LONGEST_WAIT)
                LOG.warning("%s does not reply (%s); next attempt in %g seconds.", self.url, reason, wait)
                sleep(wait)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return self._parse(reply.read())
            except urllib.error.HTTPError as error:
                text = f"HTTP {error.code}: {_error_text(error)}"
                if error.code != 429 and error.code < 500:
                    raise Rejected(f"{self.url}{suffix} rejects a request with {text}.", error.code) from error
                reason = text
            except (OSError, EOFError, http.client.HTTPException) as error:  # no connection, no reply, or half of one
                reason = _reason(error)
        attempts = f"{self.retries + 1} attempt{'s' * (self.retries > 0)}"
        raise ConnectionError(
            f"{self.url} does not reply after {attempts}, the last one with {reason}. Start the server and run the "
            "same command again: a recording resumes with the batches that are missing."
        )

    def _parse(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            received = shorten(content[:100].decode(errors="replace"))
            raise ValueError(explain_mismatch(f"JSON from {self.url}", received)) from error


def _error_text(error: urllib.error.HTTPError) -> str:
    """The reason in the body of an HTTP error, shortened."""
    try:
        content = json.loads(error.read())
        return shorten(content["error"])
    except Exception:  # a body of another form, or none
        return str(error.reason)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{cause}" if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"


class _Served:
    """Asks the server: from images `(B, H, W, C)` to outputs `(B, ...)`."""

    def __init__(self, client: Client, output: str | None, batch_size: int):
        self.client, self.output, self.batch_size = client, output, batch_size
        self._input: tuple[tuple[int | None, ...] | None, Any] | None = None

    def __call__(self, images: np.ndarray, index: np.ndarray) -> list[Any]:
        shape, dtype = self._input or self._read_metadata()
        self._input = shape, dtype
        fitting = images if shape is None else fit_images(images, shape, f"the server {self.client.url!r}")
        pixels = to_type(fitting, dtype)
        starts = range(0, len(pixels), self.batch_size)
        return [row for start in starts for row in self._predict(pixels[start : start + self.batch_size])]

    def _read_metadata(self) -> tuple[tuple[int | None, ...] | None, Any]:
        """The shape and the type of the input; an unknown shape and float32 if the server has no metadata."""
        try:
            reply = self.client.request("/metadata")
        except Rejected as error:
            if error.status not in (404, 405, 501):
                raise
            return None, np.float32
        try:
            inputs = reply["metadata"]["signature_def"]["signature_def"][SIGNATURE]["inputs"]
            ((_, tensor),) = inputs.items()
            sizes = [int(dim["size"]) for dim in tensor["tensor_shape"].get("dim", ())]
            name = tensor["dtype"].removeprefix("DT_").lower()
            dtype = tf.as_dtype({"float": "float32"}.get(name, name))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            expected = f"the metadata of one input of images from {self.client.url}"
            raise ValueError(explain_mismatch(expected, shorten(reply))) from error
        return tuple(None if size < 0 else size for size in sizes) or None, dtype.as_numpy_dtype

    def _predict(self, pixels: np.ndarray) -> list[Any]:
        reply = self.client.request(":predict", {"instances": pixels.tolist()})
        rows = reply.get("predictions") if isinstance(reply, dict) else None
        if not isinstance(rows, list) or len(rows) != len(pixels):
            received = f"{len(rows)} of them" if isinstance(rows, list) else shorten(reply)
            expected = f"{len(pixels)} 'predictions', one for each image, from {self.client.url}"
            raise ValueError(explain_mismatch(expected, received))
        if isinstance(rows[0], dict):
            name = select_output(rows[0], self.output, f"the server {self.client.url!r}")
            rows = [row.get(name) for row in rows]
        return rows
