"""Names of classes and files, made safe to show in terminals, figures and CSV."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # begin one in a spreadsheet, as full width too
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


def safe_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A table for `as_text`, with each cell on its own line."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(printable(header), overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table


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
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown
