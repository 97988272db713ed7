"""Names of classes and files, made safe to show in terminals, figures and CSV."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

LONGEST = 40  # characters of a name in a table or figure


def printable(text: str) -> str:
    """Text with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Text with its control characters but line ends escaped."""
    return "\n".join(map(printable, text.split("\n")))


def short(name: str, longest: int = LONGEST) -> str:
    """A printable name of at most `longest` characters."""
    shown = printable(name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def short_names(names: Sequence[str]) -> list[str]:
    """Names as `short` gives them, numbered where some would be equal."""
    shown = list(map(short, names))
    return [f"{s} ({i})" if shown.count(s) > 1 else s for i, s in enumerate(shown, 1)]


def as_text(table: "Table", width: int) -> str:
    """A table as printable lines of at most `width` characters."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, force_jupyter=False, markup=False, emoji=False).print(table)
    lines = buffer.getvalue().rstrip().split("\n")
    return "\n".join(printable(line.rstrip()) for line in lines)


def csv_cell(value: Any) -> Any:
    """A value for a CSV file; text that a spreadsheet would run gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
