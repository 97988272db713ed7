"""The shipped models: weights in half precision, verified by their SHA-256."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cifar10.core.errors import UserError

FOLDER = Path(__file__).parent


def pretrained_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def model_card(name: str) -> dict[str, Any]:
    """What is known of a shipped model.

    Returns:
        `sha256` of its weights, `hyper_parameters` of its Classifier, the `result` of the run that
        trained it, and its `scores` as shipped, on the test set (see `evaluation.evaluate`).
    """
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def read_pretrained(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a shipped model's weights, and what its Classifier was made with.

    Raises:
        UserError: a file is missing, or the weights are not those that were shipped.
    """
    from safetensors.torch import load

    path = FOLDER / f"{name}.safetensors"
    try:
        data, known = path.read_bytes(), model_card(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): install the package again") from error
    if hashlib.sha256(data).hexdigest() != known["sha256"]:
        raise UserError(f"{path} has not the published SHA-256: install the package again")
    return load(data), known["hyper_parameters"]
