"""The methods: one published loss per file, a pure function `<name>_loss` first, then the layer that applies it.

A file in this folder is part of the list by being here: its subclasses of `Method`, its functions whose names end in
`_loss`, and the names in its `__all__`, if it has one, are exported. Editors and type checkers read `__init__.pyi`,
which `python -m scripts.method_list` writes.
"""

import importlib
import inspect
import pkgutil

from kd_keras.methods.base import Method, TapPairMethod, Taps, agreed_hard_weight


def _exports(module) -> dict:
    """The names that a file of this folder exports."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    listed = getattr(module, "__all__", ())
    return {
        name: value
        for name, value in own.items()
        if name in listed
        or (inspect.isclass(value) and issubclass(value, Method))
        or (inspect.isfunction(value) and name.endswith("_loss") and not name.startswith("_"))
    }


__all__ = ["Method", "TapPairMethod", "Taps", "agreed_hard_weight"]
for _file in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_file.name}")
    if _file.name not in ("base", "listing"):
        globals().update(_exports(_module))
        __all__ += _exports(_module)
__all__ = sorted(set(__all__))


def __dir__() -> list[str]:
    return __all__
