"""Print a table of the speed gained by each step from a plain training loop to this project's.

python -m benchmarks.gains FILE

FILE is written by `python -m benchmarks.step`.
"""

import json
import statistics
import sys
from pathlib import Path

from benchmarks.measure import describe_machine, number, ratio

# Each with its row in the benchmark.
STEPS = {
    "plain PyTorch (float32, channels first)": "convnet: naive fp32 NCHW",
    "bf16 if the CPU has it, channels last": "convnet: bare, keep_memory=false",
    "malloc keeps freed memory": "convnet: bare loop",
    "with Lightning's Trainer": "convnet: Trainer",
}


def table(path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    speeds = {row["name"]: row["figures"] for row in record["rows"]}
    head = ["configuration (ConvNet)", "training images/s", "speed-up over the previous row"]
    lines = [head, ["---"] * 3]
    before = None
    for step, row in STEPS.items():
        gain = f"{ratio(speeds, row, before):.2f}" if before else ""
        lines.append([step, number(statistics.median(speeds[row])), gain])
        before = row
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{describe_machine(record)}."
    )


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
