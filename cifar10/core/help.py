"""`python train.py --help`: each setting with its value and its comment in configs/."""

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cifar10.core.hydra_errors import options_of
from cifar10.core.settings import CONFIGS, compose, flatten, program

USAGE = """\
Train a CIFAR-10 classifier, evaluate its best checkpoint on the test set and write result.json.

  python train.py                              the default recipe
  python train.py trainer.max_epochs=100       change a setting
  python train.py +trainer.gradient_clip_val=1 add a setting that is not in the YAML files
  python train.py experiment=airnet94          a complete recipe
  python train.py data=sample                  the bundled sample (1,500 images)
  python train.py resume=latest                resume an interrupted run
  python train.py -m optimizer.lr=0.05,0.1     one run per value

GROUP=NAME chooses a file of configs/GROUP, KEY=VALUE changes a setting. Other options:
--cfg job prints the settings, -m or --multirun starts one run per combination of comma-separated
values, --config-dir DIR adds your own YAML files, --hydra-help lists Hydra's own options.
"""
WIDTH, KEY_WIDTH = 100, 34  # columns
INDENT = " " * (KEY_WIDTH + 4)
LINE = re.compile(r"( *)([\w.@/-]+):.*?(?: #\s*(.*))?")


def comments(file: Path) -> dict[str, str]:
    """The comment beside each key of a YAML file, by dotted key."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := LINE.fullmatch(line):
            indent, key, comment = match.groups()
            parents = [parent for parent in parents if parent[0] < len(indent)]
            parents.append((len(indent), key))
            if comment:
                found[".".join(key for _, key in parents)] = comment
    return found


def file_comments(group: str, name: str) -> dict[str, str]:
    """The comments of a group's file and of those that it includes, by key within the group."""
    file = CONFIGS / group / f"{name}.yaml"
    if not file.is_file():  # of --config-dir
        return {}
    found: dict[str, str] = {}
    for included in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []):
        if isinstance(included, str) and included != "_self_":
            found |= file_comments(group, included)
    return found | comments(file)


def help_text(words: Sequence[str]) -> str:
    """The help page for the settings that a command line composes; its options are ignored."""
    settable = [word for word in words if "=" in word and not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(settable)
    single = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    composed, choices = compose(*single)
    settings: Any = OmegaConf.to_container(composed)
    meaning = comments(CONFIGS / "train.yaml")
    usage = USAGE.replace("python train.py", " ".join(program()))
    experiments = f"experiment ({', '.join(options_of('experiment'))})"
    lines = [usage, *textwrap.wrap(experiments, WIDTH, subsequent_indent="  ")]
    for key, value in sorted(settings.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict):
            lines.append(f"\n{key}={choices[key]} (choose from {', '.join(options_of(key))})")
            found = file_comments(key, choices[key])
            meaning |= {f"{key}.{name}": text for name, text in found.items()}
            lines += describe(value, f"{key}.", meaning)
        else:
            lines += describe({key: value}, "", meaning)
    return "\n".join(lines)


def describe(node: dict[Any, Any], prefix: str, meaning: dict[str, str]) -> list[str]:
    """One line or more for each setting of a group."""
    lines = []
    for name, value in flatten(node, prefix).items():
        text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
        typed = f"  {name}={text}"
        if len(typed) > WIDTH:
            typed = f"{typed[: WIDTH - 1]}…"
        start = f"{typed:<{len(INDENT) - 2}}  "
        if len(start) > len(INDENT):
            lines.append(typed)
            start = INDENT
        lines += textwrap.wrap(f"{start}{meaning.get(name, '')}", WIDTH, subsequent_indent=INDENT)
    return lines
