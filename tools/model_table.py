"""Print the pretrained models as a Markdown table.

python -m tools.model_table FOLDER
"""

import json
import sys
from pathlib import Path

HEAD = ("model", "parameters", "file", "top-1", "top-3", "top-5", "top-1, flip TTA")


def table(folder: Path) -> str:
    """Format the JSON cards of a folder, one row each."""
    lines = [HEAD, ["---"] * len(HEAD)]
    for path in sorted(folder.glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        scores, size = card["scores"], path.with_suffix(".safetensors").stat().st_size
        lines.append(
            [
                f"[`{path.stem}`](cifar10/zoo/{path.stem}.md)",
                f"{card['result']['parameters']:,}",
                f"{size / 1e6:.1f} MB",
                *(f"{scores[key]:.2%}" for key in ("top1", "top3", "top5")),
                f"{scores['mirrored']['top1']:.2%}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.model_table FOLDER")
    print(table(Path(sys.argv[1])))
