"""The picture of a terminal in README."""

import sys

import pytest

pytest.importorskip("pty")  # not on Windows

from rich.text import Text

from tools.record_terminal import capture_output, draw_svg, render_screen


def test_a_progress_bar_shows_its_final_state():
    output = "start\r\n 10%\r\x1b[2K\x1b[32m100%\x1b[0m\r\nfirst\r\nsecond\r\x1b[1A\x1b[2Kdone\r\n"
    lines = render_screen(output)
    assert [Text.from_ansi(line).plain for line in lines] == ["start", "100%", "done", "second"]
    assert lines[1] == "\x1b[32m100%\x1b[0m"


def test_the_svg_contains_the_output_and_loads_no_resources():
    output = capture_output([sys.executable, "-c", "print('a<b')"], columns=40)
    svg = draw_svg("title", render_screen(output), columns=40)
    assert "a&lt;b" in svg
    assert "url(http" not in svg.replace('"', "")
