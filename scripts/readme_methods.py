"""Writes the README's table of methods from the methods themselves.

python -m scripts.readme_methods
"""

from pathlib import Path

from experiments.methods import HEAD, described, kinds

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- methods: made by scripts/readme_methods.py -->\n", "<!-- /methods -->\n"


def table() -> str:
    """The table, as Markdown."""
    rows = [HEAD, ["---"] * len(HEAD), *map(described, kinds())]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def main() -> None:
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + BEGIN + "\n" + table() + "\n" + END + after)


if __name__ == "__main__":
    main()
