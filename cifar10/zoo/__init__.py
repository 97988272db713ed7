"""Pretrained models: weights in half precision, verified by their SHA-256."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cifar10.core.errors import UserError
from cifar10.core.settings import restore_keys

FOLDER = Path(__file__).parent


def pretrained_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def is_pretrained(model: str | Path) -> bool:
    return str(model) in pretrained_names()


def model_card(name: str) -> dict[str, Any]:
    """`sha256` of the weights, `hyper_parameters` of the Classifier, `result` of the run, `scores`.

    The scores are those of the half-precision weights (see `inference.evaluate.evaluate`).
    """
    return restore_keys(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def read_pretrained(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model's weights and hyperparameters; UserError if a file is missing or corrupted."""
    from safetensors.torch import load

    path = FOLDER / f"{name}.safetensors"
    try:
        data, card = path.read_bytes(), model_card(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); reinstall the package") from error
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise UserError(f"{path}: does not have its published SHA-256; reinstall the package")
    return load(data), card["hyper_parameters"]
