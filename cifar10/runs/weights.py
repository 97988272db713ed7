"""The weights that a training starts from: of a pretrained model, a run or any file of weights."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cifar10 import zoo
from cifar10.core.display import short
from cifar10.core.errors import SettingError, UserError, one_line
from cifar10.core.settings import expand_user
from cifar10.data import CLASSES
from cifar10.runs.checkpoint import is_small, read_checkpoint
from cifar10.runs.file_kinds import OLD_TORCH, require_checkpoint_file
from cifar10.runs.identity import weights_digest
from cifar10.runs.load import find_checkpoint
from cifar10.training.classifier import Classifier
from cifar10.training.finetune import transfer


def read_weights(source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, and the arguments of their Classifier, empty for those of other projects.

    Args:
        source: a pretrained model's name, a run folder, a checkpoint of this project, or a file of
            weights by torch or safetensors. Reading runs no code of it.

    Raises:
        SettingError: there is no such source, or it has no weights.
    """
    try:
        if zoo.is_pretrained(source):
            return zoo.read_pretrained(source)
        path = find_checkpoint(source)
        if not path.is_file():  # reading a pipe would block
            raise UserError("not a regular file")
        if path.suffix == ".safetensors":
            return require_plain(read_safetensors(path)), {}
        if expand_user(source).is_dir():
            content: Any = read_checkpoint(path)
        else:
            content = read_torch_file(path)
        if is_ours(content):
            return require_plain(content["state_dict"]), content["hyper_parameters"]
        if not (weights := find_tensors(content)):
            raise UserError(f"holds no weights, but {type(content).__name__}")
        return require_plain(weights), {}
    except UserError as error:
        raise SettingError(f"weights={source}: {error}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # a wrong shape raises others than SafetensorError
        raise UserError(f"not a valid safetensors file: {one_line(error)}") from error


def read_torch_file(path: Path) -> Any:
    try:
        if not is_old_torch(path):
            require_checkpoint_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # corrupted files raise anything
        reason = one_line(error).partition(". ")[0]
        raise UserError(f"cannot be read safely: {reason}") from error
    if not is_small(content):
        raise UserError("holds too many values, or too deep")
    return content


def is_ours(content: Any) -> bool:
    """Whether a file's content is a checkpoint of this project's `Classifier`."""
    state, arguments = (
        content.get(key) if isinstance(content, dict) else None
        for key in ("state_dict", "hyper_parameters")
    )
    has_model = isinstance(arguments, dict) and isinstance(arguments.get("model"), dict)
    shapes = [getattr(state.get(name), "shape", None) for name in ("mean", "std")] if state else []
    return has_model and shapes == [(3, 1, 1), (3, 1, 1)]


def is_old_torch(path: Path) -> bool:
    """Whether torch before 1.6 saved a file."""
    with path.open("rb") as file:
        return file.read(len(OLD_TORCH)) == OLD_TORCH


def require_plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights, or raise a UserError for names or tensors that no network has."""
    if len(weights) > MAX_TENSORS:
        raise UserError(f"has {len(weights):,} tensors; at most {MAX_TENSORS:,} are read")
    for name, value in weights.items():
        is_odd = value.is_nested or value.is_quantized or value.is_meta or value.is_conj()
        is_odd = is_odd or value.layout is not torch.strided or value.dtype not in DTYPES
        if is_odd or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{short(name)}: is not a plain tensor")
        if len(name) > MAX_NAME or not name.isprintable():
            raise UserError(f"{short(name)}: a name that is too long or not printable")
    return weights


def find_tensors(content: Any) -> dict[str, Tensor]:
    """The group with most tensors in nested groups: `{"net": {...}, "epoch": 3}`."""
    if not isinstance(content, Mapping):
        return {}
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return max((own, *map(find_tensors, content.values())), key=len)


MAX_TENSORS, MAX_NAME = 10_000, 500
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


class Start(NamedTuple):
    """What a training started from."""

    text: str  # for the user
    digest: str  # SHA-256 of the source's weights


def start_from(classifier: Classifier, source: str) -> Start:
    """Start a classifier from other weights.

    The head is new if it does not fit or if the classes differ. This project's models bring their
    normalisation with them.

    Raises:
        SettingError: the weights cannot be read, or are those of another network.
    """
    weights, arguments = read_weights(source)
    if arguments:
        for buffer, name in ((classifier.mean, "mean"), (classifier.std, "std")):
            buffer.copy_(weights[name])
        weights = {k: v for k, v in weights.items() if k.startswith("network.")}
        classifier.fixed_mean = True
    same = not arguments or tuple(arguments.get("classes", CLASSES)) == classifier.classes
    try:
        taken, new, unused = transfer(classifier.network, weights, same)
    except SettingError as error:
        advice = "choose that network with model="
        if theirs := arguments.get("model"):
            own = classifier.hparams["model"]
            other = [f"model.{key}={theirs[key]}" for key in theirs if own.get(key) != theirs[key]]
            advice = f"leave out model, or set {shlex.join(other).replace(', ', ',')}"
        raise SettingError(f"weights={source}: {error}; {advice}") from error
    classifier.is_fresh = False
    total = len(taken) + len(new)
    text = f"{source}: {len(taken)} of {total} tensors loaded"
    text += f"; new: {short(', '.join(new), 80)}" * bool(new)
    text += f"; not used: {short(', '.join(unused), 80)}" * bool(unused)
    return Start(text, weights_digest(weights))
