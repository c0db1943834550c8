"""Writes the table of methods and the stub that editors and type checkers read, both from the methods themselves.

    python -m scripts.method_list

Files: experiments/results/method_list.md and kd_keras/methods/__init__.pyi.
"""

from pathlib import Path

from kd_keras import methods
from kd_keras.methods.listing import format_table

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "experiments" / "results" / "method_list.md"
STUB = ROOT / "kd_keras" / "methods" / "__init__.pyi"

INTRODUCTION = """# Methods

`python -m scripts.method_list` writes this table from the class attributes of the methods. The columns "weight" and
"hard loss" are the default weight of the method and the weight of the hard loss in the setting that it was published
for. `Distiller(hard_weight=None)` uses the latter if all its methods agree on it. `python -m experiments.methods`
prints the table with the cost of the adapters for a pair of networks.

"""


def write_table() -> str:
    """The Markdown page with the table of methods."""
    return INTRODUCTION + format_table()


def write_stub() -> str:
    """The stub: one import per exported name. A method that is not listed yet has the type Any."""
    lines = ["# Written by python -m scripts.method_list.", "from typing import Any"]
    values = {name: getattr(methods, name) for name in methods.__all__}
    imports = sorted(f"from {value.__module__} import {name} as {name}" for name, value in values.items())
    return "\n".join([*lines, "", *imports, "", "def __getattr__(name: str) -> Any: ...", ""])


def main() -> None:
    TABLE.write_text(write_table())
    STUB.write_text(write_stub())


if __name__ == "__main__":
    main()
