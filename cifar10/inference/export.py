"""A classifier as one file that needs none of this code."""

import importlib.util
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar10.core.errors import SettingError, UserError
from cifar10.core.files import atomic_write
from cifar10.training.classifier import Classifier

NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a probability; rounding alone stays far below
ROUNDS = 20
INPUT, OUTPUT, NAMES = "images", "probabilities", "classes"


class ExportedClassifier(nn.Module):
    """Bytes in, probabilities out: normalisation, network, softmax."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.network, self.classes = classifier.network, classifier.classes
        self.register_buffer("scale", 1 / (255 * classifier.std))
        self.register_buffer("shift", -classifier.mean / classifier.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() * self.scale + self.shift).softmax(1)


def require_packages(form: str) -> None:
    """Raise a SettingError if a package that the form needs is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if form == "onnx" and missing:
        raise SettingError(
            f"--to onnx: {', '.join(missing)} must be installed: pip install -e '.[export]'"
        )


def export(classifier: Classifier, form: str, path: Path, images: Tensor) -> dict[str, str]:
    """Write a classifier for ONNX Runtime, or as a `torch.export` program.

    The file has the names of the classes inside: ONNX's metadata `classes`, a JSON list; or the
    program's extra file `classes.json`.

    Args:
        form: `onnx` or `torch`.
        images: that the file must answer as PyTorch does, uint8 (N, 3, 32, 32).

    Returns:
        What was measured, as text: the largest difference, latency and throughput.

    Raises:
        UserError: the file answers otherwise.
    """
    classifier.set_memory_format(channels_last=False)
    whole = ExportedClassifier(classifier).eval()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        file = Path(place, "model.pt2" if form == "torch" else "model.onnx")
        example = images[:2].clone()  # a program is saved with its example, and all it is a view of
        (write_onnx if form == "onnx" else write_program)(whole, file, example)
        answer = (open_onnx if form == "onnx" else open_program)(file)
        data = file.read_bytes()

    def eager(some: Tensor) -> Tensor:
        with torch.inference_mode():
            return whole(some)

    difference = float((answer(images) - eager(images)).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} was not written: its probabilities differ from PyTorch's by {difference:.1e}"
        )
    with atomic_write(path) as target:
        target.write(data)
    return {
        "size": f"{len(data) / 1e6:.1f} MB",
        "largest difference": f"{difference:.1e} on {len(images):,} test images",
        "one image": versus(answer, eager, images[:1]),
        f"{len(images):,} images": versus(answer, eager, images),
    }


def write_onnx(whole: ExportedClassifier, file: Path, example: Tensor) -> None:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        whole,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, {NAMES: json.dumps(whole.classes)})
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def open_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def write_program(whole: ExportedClassifier, file: Path, example: Tensor) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(whole, (example,), dynamic_shapes=shapes)
    torch.export.save(program, file, extra_files={f"{NAMES}.json": json.dumps(whole.classes)})


def open_program(file: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(file).module()

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(images)

    return answer


def versus(
    answer: Callable[[Tensor], Tensor], eager: Callable[[Tensor], Tensor], images: Tensor
) -> str:
    """Median milliseconds of both, in turns, after a warm-up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for function, taken in zip((answer, eager), seconds, strict=True):
            start = time.perf_counter()
            function(images)
            taken.append(time.perf_counter() - start)
    ours, theirs = (statistics.median(taken[ROUNDS // 4 :]) for taken in seconds)
    rates = f"{len(images) / ours:,.0f} and {len(images) / theirs:,.0f} images/s"
    return f"{1000 * ours:.2f} ms, PyTorch eager {1000 * theirs:.2f} ms ({rates})"
