"""Runs the programs of experiments/ in this process, or in a separate one."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import keras
from absl import flags
from absl import logging as absl_logging

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--data=digits", "--train_split=train[:64]", "--test_split=test[:64]", "--epochs=1", "--batch_size=32"]


class Ran(NamedTuple):
    """The result of a program: its exit code and its output."""

    returncode: int
    stdout: str
    stderr: str


def program(name, *arguments, check=True, environment=()):
    """Calls a program in this process, with flags of its own.

    Args:
        name: the name of the module in experiments/.
        arguments: the command line.
        check: whether the test fails if the program fails.
        environment: environment variables to set during the call.
    """
    _forget_flags()
    module = importlib.import_module(f"experiments.{name}")
    command = [f"experiments.{name}", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    before, verbosity = Path.cwd(), absl_logging.get_verbosity()
    os.chdir(ROOT)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            mock.patch.dict(os.environ, dict(environment)),
        ):
            code = _exit_code(module, command)
    finally:
        os.chdir(before)
        absl_logging.set_verbosity(verbosity)
        keras.utils.clear_session(free_memory=False)
    ran = Ran(code, output.getvalue(), errors.getvalue())
    if check:
        assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    return ran


def parse(name, *arguments):
    """Parses the command line of a program without running it; raises an error for a wrong one."""
    _forget_flags()
    importlib.import_module(f"experiments.{name}")
    from experiments.flags.program import _parse

    before, verbosity = Path.cwd(), absl_logging.get_verbosity()
    os.chdir(ROOT)
    try:
        _parse([f"experiments.{name}", *map(str, arguments)])
    finally:
        os.chdir(before)
        absl_logging.set_verbosity(verbosity)


def process(name, *arguments, check=True, environment=()):
    """Runs a program in a separate process, as a shell does."""
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **dict(environment)})
    if check:
        assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


def _exit_code(module, command):
    from experiments.flags.program import run_program

    try:
        run_program(module.main, command)
    except SystemExit as error:
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        raise


def _forget_flags():
    """Removes the flags of all programs, and their modules, so that the next import defines them again."""
    for names in [names for names in flags.FLAGS.flags_by_module_dict() if names.startswith("experiments")]:
        for flag in list(flags.FLAGS.flags_by_module_dict()[names]):
            if flag.name in flags.FLAGS:
                delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()
    for name in [name for name in sys.modules if name == "experiments" or name.startswith("experiments.")]:
        del sys.modules[name]
