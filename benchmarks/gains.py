"""What each step from a plain training loop to this project's brings, as a table.

python -m benchmarks.gains FILE

FILE is what `python -m benchmarks.step` wrote.
"""

import json
import statistics
import sys
from pathlib import Path

from benchmarks.measure import number, place, ratio

# Each with its row of the benchmark.
STEPS = {
    "a plain loop: float32, torch's own layout": "convnet: naive fp32 NCHW",
    "bf16 where the processor computes it, channels last": "convnet: bare, keep_memory=false",
    "freed memory kept, not mapped and cleared anew": "convnet: bare loop",
    "the same under Lightning's Trainer": "convnet: Trainer",
}


def table(path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    speeds = {row["name"]: row["figures"] for row in record["rows"]}
    lines = [["step, ConvNet", "training images/s", "gain"], ["---"] * 3]
    before = None
    for step, row in STEPS.items():
        gain = f"{ratio(speeds, row, before):.2f}" if before else ""
        lines.append([step, number(statistics.median(speeds[row])), gain])
        before = row
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{place(record)}."


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
