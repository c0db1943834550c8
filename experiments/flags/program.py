"""Runs a program: parses its flags, prints progress and errors, and sets the exit code."""

from __future__ import annotations

import dataclasses
import errno
import logging
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from absl import flags
from absl import logging as absl_logging

from experiments.startup import INTERRUPTED
from kd_keras.data.python_calls import plain_message
from kd_keras.runs.recipe import Recipe

FLAGS = flags.FLAGS
WRONG_REQUEST, FAILURE = 2, 1
LONGEST = 2000  # characters of a message
flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def run_program(main: Callable[[], int | None], argv: Sequence[str] | None = None) -> None:
    """Runs a program and exits with the code of `main`, or 2 for a wrong request, 1 for a failure, 130 after Ctrl-C.

    A request is wrong if a flag is unknown, if a word is no flag, if a file does not exist, or if the program raises a
    ValueError or a TypeError. Only the message of an error is printed; with `--debug` also its traceback.

    Args:
        main: the program, which returns an exit code or `None` for 0. The docstring of its module is the help text.
        argv: the command line, which begins with the program's name; by default that of the process.

    Raises:
        SystemExit: always.
    """
    argv = list(sys.argv if argv is None else argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # experiments/startup.py has changed it
    if {"--help", "-help", "-h", "--helpfull"} & set(argv[1:]):
        print(help_text(main))
        sys.exit(0)
    try:
        _parse(argv)
    except (flags.Error, ValueError, OSError) as error:
        print(f"Error: {_message(error)}\nUse --help to see all flags.", file=sys.stderr)
        sys.exit(WRONG_REQUEST)
    with _progress():
        try:
            code = main()
        except KeyboardInterrupt:
            text = "Interrupted. Run the same command again; a run resumes from its last checkpoint."
            print(text, file=sys.stderr, flush=True)
            code = INTERRUPTED
        except Exception as error:
            if FLAGS.debug:
                traceback.print_exc()
            print(f"Error: {_message(error)}", file=sys.stderr, flush=True)
            code = WRONG_REQUEST if _is_request(error) else FAILURE
    sys.exit(code or 0)


def _is_request(error: Exception) -> bool:
    """Whether an error is due to what was requested: a value, or a path that cannot be what it must be."""
    of_a_path = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
    is_too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return isinstance(error, (ValueError, TypeError, *of_a_path)) or is_too_long


def _message(error: Exception) -> str:
    """The text of an error; of one within a pipeline its sentence alone.

    Of a very long one, which may contain a value of megabytes, the beginning and the end.
    """
    text = plain_message(error).strip() or type(error).__name__
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} [... {len(text) - LONGEST:,} characters ...] {text[-half:]}"


def help_text(main: Callable[..., Any]) -> str:
    """The docstring of a program's module, and its flags."""
    module = main.__module__
    defining = sys.argv[0] if module == "__main__" else module
    return f"{sys.modules[module].__doc__}\n{FLAGS.module_help(defining)}"


def given(name: str) -> Any:
    """The value of a flag if it is on the command line or in a flagfile, else `None`."""
    return FLAGS[name].value if FLAGS[name].present else None


def given_options(names: Sequence[str]) -> dict[str, Any]:
    """The values of those of some flags that are on the command line or in a flagfile, by name."""
    return {name: given(name) for name in names if given(name) is not None}


def command_line(program: str) -> str:
    """The command that repeats this process, for a program by its name."""
    return f"python -m experiments.{program} {shlex.join(sys.argv[1:])}"


def recipe_options() -> dict[str, Any]:
    """The options of `Recipe` for which the program has flags."""
    return {field.name: FLAGS[field.name].value for field in dataclasses.fields(Recipe) if field.name in FLAGS}


def numbers(name: str, count: int | None = None) -> tuple[int, ...]:
    """The value of a list flag that is set, as whole numbers.

    Args:
        name: the name of the flag.
        count: how many numbers there must be; any number of them by default.

    Raises:
        ValueError: if the value is not a list of so many whole numbers.
    """
    texts = FLAGS[name].value
    if len(texts) != (count or len(texts)) or not all(text.strip().isdigit() for text in texts):
        kind = f"{count} whole numbers" if count else "whole numbers"
        raise ValueError(f"--{name} must be {kind} separated by commas, but received {','.join(texts)}.")
    return tuple(int(text) for text in texts)


def pair(name: str) -> tuple[int, int]:
    """The value of a list flag as two whole numbers.

    Raises:
        ValueError: if it is anything else.
    """
    first, second = numbers(name, 2)
    return first, second


def _parse(argv: list[str]) -> None:
    words = FLAGS(argv)[1:]
    if words:
        before = argv[argv.index(words[0]) - 1].lstrip("-") if words[0] in argv else ""  # else from a flagfile
        if before in FLAGS and isinstance(FLAGS[before], flags.BooleanFlag):
            raise ValueError(
                f"--{before} takes no separate value, but received {words[0]!r}. Write --{before} or --no{before}."
            )
        raise ValueError(f"Expected flags only, but received the word {words[0]!r}. Write --name=value.")
    if not FLAGS["verbosity"].present:  # TensorFlow and TFDS log every file that they open
        absl_logging.set_verbosity(absl_logging.ERROR)


class _Printer(logging.Handler):
    """Prints plain messages to the current standard output, which a program may redirect."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


@contextmanager
def _progress() -> Iterator[None]:
    logger, printer = logging.getLogger("kd_keras"), _Printer()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger, which other packages may add, would repeat every line
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(level)
        logger.propagate = propagates
