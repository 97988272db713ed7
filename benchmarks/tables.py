"""Update the tables of README.md and RESULTS.md from their JSON files.

python -m benchmarks.tables

Each table is between a comment with the command that prints it and `<!-- end -->`.
"""

import re
from pathlib import Path

from benchmarks import gains, measure
from cifar10.sweeps.grouping import find_runs
from tests.faults import table as faults
from tools.model_table import table as zoo
from tools.recipe_table import as_markdown

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "RESULTS.md")
START = "<!-- python -m "
BLOCK = re.compile(rf"({START}(\S+) (\S+) -->\n)((?:(?!<!--).)*)(<!-- end -->)", re.DOTALL)


def of_results(path: str) -> str:
    return as_markdown(find_runs([ROOT / path]))


def of_benchmarks(pattern: str) -> str:
    return measure.tables(sorted(ROOT.glob(pattern)))


PRINTERS = {
    "tools.recipe_table": of_results,
    "benchmarks.measure": of_benchmarks,
    "tools.model_table": lambda path: zoo(ROOT / path),
    "benchmarks.gains": lambda path: gains.table(ROOT / path),
    "tests.faults.table": lambda path: faults.table(ROOT / path),
}


def renewed(text: str) -> str:
    """Return a page with all tables updated."""
    return BLOCK.sub(lambda m: f"{m[1]}{PRINTERS[m[2]](m[3])}\n{m[5]}", text)


def main() -> None:
    for name in PAGES:
        page = ROOT / name
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
