"""Export a classifier as one standalone ONNX or torch.export file."""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cifar10 import zoo
from cifar10.core.errors import SettingError, UserError
from cifar10.core.files import atomic_write
from cifar10.core.settings import expand_user
from cifar10.inference.splits import how_tested, read_split
from cifar10.runs.load import load
from cifar10.runs.run_dir import LATEST, latest_run
from cifar10.training.classifier import Classifier

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a probability; rounding alone stays far below
CHECK_IMAGES = 1000
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
BATCH_SHAPE = ({0: torch.export.Dim("batch")},)

Predict = Callable[[Tensor], Tensor]  # uint8 (N, 3, 32, 32) to float (N, classes)


class ExportedClassifier(nn.Module):
    """Normalisation, network and softmax: uint8 images in, probabilities out."""

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.network, self.classes = classifier.network, classifier.classes
        self.register_buffer("scale", 1 / (255 * classifier.std))
        self.register_buffer("shift", -classifier.mean / classifier.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() * self.scale + self.shift).softmax(1)


def export_model(
    model: str | Path, form: Literal["onnx", "torch"], out: Path | None = None
) -> dict[str, str]:
    """Write a model (as for `load`) for ONNX Runtime or as a `torch.export` program.

    The file contains the class names, a JSON list: as ONNX metadata `classes`, or as the program's
    extra file `classes.json`.

    Returns:
        File size, largest difference from PyTorch and path, as text.
    """
    packages = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    if missing := ", ".join(name for name in packages if find_spec(name) is None):
        raise SettingError(f"--to onnx: needs {missing}; install with: pip install -e '.[export]'")
    if model == LATEST:
        model = latest_run()
    classifier = load(model, "cpu")
    name = str(model) if zoo.is_pretrained(model) else expand_user(model).resolve().stem
    path = out or Path(name + SUFFIXES[form])
    if path.exists():
        raise UserError(f"{path}: already exists; remove it or choose another file with --out")
    labelled, _ = read_split(how_tested(model), "test")
    images = labelled.images[:CHECK_IMAGES]

    log.info("Exporting %s, which can take a minute …", model)
    classifier.set_memory_format(channels_last=False)
    network = ExportedClassifier(classifier).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own code
        file = Path(folder, f"model{SUFFIXES[form]}")
        example = images[:2].clone()  # the program stores its example with the whole storage
        exported = (write_onnx if form == "onnx" else write_program)(network, file, example)
        content = file.read_bytes()

    log.info("Comparing with PyTorch on %s test images …", f"{len(images):,}")
    with torch.inference_mode():
        difference = float((exported(images) - network(images)).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: not saved; its probabilities differ from PyTorch's by {difference:.1e}"
        )
    with atomic_write(path) as target:
        target.write(content)
    return {
        "size": f"{len(content) / 1e6:.1f} MB",
        "largest difference": f"{difference:.1e} on {len(images):,} test images",
        "saved to": str(path),
    }


def write_onnx(network: ExportedClassifier, file: Path, example: Tensor) -> Predict:
    import onnx
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=BATCH_SHAPE,
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    model = program.model_proto
    onnx.helper.set_model_props(model, {"classes": json.dumps(network.classes)})
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_program(network: ExportedClassifier, file: Path, example: Tensor) -> Predict:
    program = torch.export.export(network, (example,), dynamic_shapes=BATCH_SHAPE)
    torch.export.save(program, file, extra_files={"classes.json": json.dumps(network.classes)})
    return torch.export.load(file).module()
