"""A run's page: one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from cifar10.runs.result import repeat_command

NAME = "report.html"
CAPTIONS = {
    "curves": "Each epoch's figures",
    "mistakes": "The mistakes it was surest of",
    "confusion": "Which class is taken for which",
    "per_class": "Accuracy of each class",
    "reliability": "How often it is right, by how sure it is",
    "augmented": "Training images as the network sees them in the first epoch",
    "samples": "Training images of each class",
    "filters": "The first layer's filters",
}


def page(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """A run's result, settings and pictures as an HTML page.

    Args:
        result: what stands in result.json.
        pictures: PNG files by their figure's name.
    """
    template = jinja2.Template(
        Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = {
        name: (caption, base64.b64encode(pictures[name]).decode())
        for name, caption in CAPTIONS.items()
        if name in pictures
    }
    return template.render(
        result=result,
        command=repeat(result),
        config=yaml.safe_dump(dict(result["config"]), sort_keys=False),
        pictures=shown,
    )


def repeat(result: Mapping[str, Any]) -> str:
    """What to type to train the same again, in another folder."""
    start, *later = repeat_command(result).split(" && ")
    return " && ".join([f"{start} seed={result['seed']}", *later])
