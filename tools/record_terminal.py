"""Run a command in a pseudo-terminal and save its final screen as docs/terminal.svg.

python -m tools.record_terminal [--columns N] [--out FILE] COMMAND ...

Linux and macOS only. The output is also shown while the command runs.
"""

import argparse
import io
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

SVG = Path(__file__).parent.parent / "docs" / "terminal.svg"
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# One piece of output: an escape sequence, a control character or printable text.
PIECE = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|([\r\n])|([^\x1b\r\n]+)")


def capture_output(command: list[str], columns: int) -> str:
    """Run a command in a pseudo-terminal of this width and return all that it printed.

    Raises:
        CalledProcessError: the command failed.
    """
    terminal, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (50, columns))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command, stdin=child_end, stdout=child_end, stderr=child_end, env=environment
    )
    os.close(child_end)
    output = b""
    while chunk := read_chunk(terminal):
        output += chunk
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
    os.close(terminal)
    if code := process.wait():
        raise subprocess.CalledProcessError(code, command)
    return output.decode(errors="replace")


def read_chunk(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports the end of a pseudo-terminal as an input error
        return b""


def render_screen(output: str) -> list[str]:
    """Replay terminal output and return the final lines, with their colour codes.

    Understands what progress bars use: carriage return, cursor up and down, erase line.
    """
    lines: list[list[tuple[str, str]]] = [[]]  # each cell: colour codes, character
    row = column = 0
    style = ""
    for arguments, action, control, text in PIECE.findall(output):
        count = int(arguments) if arguments.isdecimal() else 1
        if control == "\r":
            column = 0
        elif control == "\n" or action == "B":
            row += count
            lines += [[] for _ in range(row + 1 - len(lines))]
        elif action == "A":
            row = max(0, row - count)
        elif action == "K":  # 2 erases the whole line, otherwise from the cursor on
            lines[row] = [] if arguments == "2" else lines[row][:column]
        elif action == "m":
            style = "" if arguments in ("", "0") else f"{style}\x1b[{arguments}m"
        for character in text:
            line = lines[row]
            line += [("", " ")] * (column + 1 - len(line))
            line[column] = (style, character)
            column += 1
    return ["".join(map(render_run, groupby(line, lambda cell: cell[0]))) for line in lines]


def render_run(run: tuple[str, Iterator[tuple[str, str]]]) -> str:
    style, cells = run
    return f"{style}{''.join(character for _, character in cells)}\x1b[0m"


def draw_svg(title: str, lines: list[str], columns: int) -> str:
    """Terminal lines as an SVG that needs no font or file from elsewhere."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", FONTS)
    return re.sub(r" +$", "", svg, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--columns", type=int, default=92, help="width of the terminal")
    parser.add_argument("--out", type=Path, default=SVG, help="SVG file")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    output = capture_output(options.command, options.columns)
    output = output.replace(f"{Path.cwd()}{os.sep}", "")  # no paths of this machine
    lines = render_screen(output)
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    prompt = f"\x1b[1m$ {shlex.join(options.command)}\x1b[0m"
    svg = draw_svg(shlex.join(options.command), [prompt, *lines], options.columns)
    options.out.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
