"""The methods: one published loss per file, a pure function `<name>_loss` first, then the layer that applies it.

A file in this folder is part of the list by being here: its subclasses of `Method`, its functions whose names end in
`_loss`, and the names in its `__all__`, if it has one, are exported. Editors and type checkers read `__init__.pyi`,
which `python -m scripts.method_list` writes.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from kd_keras.methods.base import Method, TapPairMethod, Taps


def _is_exported(module: ModuleType, name: str, value: Any) -> bool:
    if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
        return False
    is_method = inspect.isclass(value) and issubclass(value, Method)
    is_loss = inspect.isfunction(value) and name.endswith("_loss")
    return is_method or is_loss or name in getattr(module, "__all__", ())


def _read_folder(paths: Iterable[str]) -> dict[str, Any]:
    """The exported names of all files but base.py, which is imported above."""
    names = sorted(file.name for file in pkgutil.iter_modules(paths) if file.name != "base")
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {
        name: value for module in modules for name, value in vars(module).items() if _is_exported(module, name, value)
    }


_exports = _read_folder(__path__)
globals().update(_exports)
__all__ = ["Method", "TapPairMethod", "Taps"]
__all__ += sorted(_exports)


def __dir__() -> list[str]:
    return __all__
