"""What the long form of the fault suite tried, and what survived, as a table.

python -m tests.faults.table [results/faults.json]
"""

import json
import sys
from pathlib import Path

RECORD = Path(__file__).parents[2] / "results" / "faults.json"


def table(path: Path = RECORD) -> str:
    """A Markdown table with a line for each kind of fault and a column for each pass."""
    passes = json.loads(path.read_text(encoding="utf-8"))
    head = ["fault", *(f"survived, seed {one['seed']}" for one in passes)]
    lines = [head, ["---"] * len(head)]
    for fault in dict.fromkeys(fault for one in passes for fault in one["tried"]):
        counts = (one["tried"].get(fault, [0, 0]) for one in passes)
        lines.append([fault, *(f"{good} of {tried}" for tried, good in counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(*map(Path, sys.argv[1:])))
