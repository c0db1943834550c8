"""What surrounds the main function of a program: flags, progress on the standard output, errors, exit codes."""

from __future__ import annotations

import dataclasses
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from absl import flags
from absl import logging as absl_logging

from kd_keras.runs.recipe import Recipe

FLAGS = flags.FLAGS
WRONG_REQUEST, FAILURE = 2, 1
flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")


def run_program(main: Callable[[], int | None], argv: Sequence[str] | None = None) -> None:
    """Runs a program and exits: with what `main` returns, with 2 for a wrong request, with 1 for a failure.

    A wrong request is a ValueError, a TypeError, a file that does not exist, an unknown flag or a word that is no flag.
    The error is printed as its message; `--debug` shows the traceback.

    Args:
        main: the program, in the module whose docstring is its help; returns an exit code, or `None` for 0.
        argv: the command line, the program's name first; by default that of the process.
    """
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-help", "-h", "--helpfull"} & set(argv[1:]):
        print(help_text(main))
        sys.exit(0)
    try:
        _parse(argv)
    except (flags.Error, ValueError, OSError) as error:
        print(f"Error: {error}\nSay --help to see all flags.", file=sys.stderr)
        sys.exit(WRONG_REQUEST)
    with _progress():
        try:
            code = main()
        except Exception as error:
            if FLAGS.debug:
                traceback.print_exc()
            print(f"Error: {error or type(error).__name__}", file=sys.stderr, flush=True)
            wrong = isinstance(error, (ValueError, TypeError, FileNotFoundError))
            code = WRONG_REQUEST if wrong else FAILURE
    sys.exit(code or 0)


def help_text(main: Callable[..., Any]) -> str:
    """The docstring of a program's module, and its flags."""
    module = main.__module__
    defining = sys.argv[0] if module == "__main__" else module
    return f"{sys.modules[module].__doc__}\n{FLAGS.module_help(defining)}"


def given(name: str) -> Any:
    """The value of a flag that is on the command line or in its flagfile, else `None`."""
    return FLAGS[name].value if FLAGS[name].present else None


def recipe_options() -> dict[str, Any]:
    """The options of `Recipe` that the program has flags for."""
    return {field.name: FLAGS[field.name].value for field in dataclasses.fields(Recipe) if field.name in FLAGS}


def numbers(name: str, count: int | None = None) -> tuple[int, ...]:
    """The value of a list flag as so many whole numbers, any number of them by default.

    Raises:
        ValueError: if it is anything else.
    """
    texts = FLAGS[name].value
    if len(texts) != (count or len(texts)) or not all(text.strip().isdigit() for text in texts):
        raise ValueError(f"--{name} must be {count or ''} whole numbers with commas, but received {','.join(texts)}.")
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
        before = argv[argv.index(words[0]) - 1].lstrip("-")
        if before in FLAGS and isinstance(FLAGS[before], flags.BooleanFlag):
            raise ValueError(
                f"--{before} takes no separate value, but received {words[0]!r}. Write --{before} or --no{before}."
            )
        raise ValueError(f"Expected flags only, but received the word {words[0]!r}. Write --name=value.")
    if not FLAGS["verbosity"].present:  # what TensorFlow and TFDS log of every file that they open
        absl_logging.set_verbosity(absl_logging.ERROR)


class _Printer(logging.Handler):
    """Prints plain messages to what is now the standard output."""

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
