"""Names of classes and files, which may hold anything, as people and spreadsheets can take them."""

from typing import Any

LONGEST = 40  # characters of a name in a table or figure


def printable(text: str) -> str:
    """Text with its control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def short(name: str, longest: int = LONGEST) -> str:
    """A printable name of at most `longest` characters."""
    shown = printable(name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def csv_cell(value: Any) -> Any:
    """A value for a CSV file; text that a spreadsheet would run gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
