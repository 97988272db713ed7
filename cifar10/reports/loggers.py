"""Lightning's loggers: built from settings, with figures, ended."""

import io
import os
import shlex
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image
from pydantic import StringConstraints

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import check_types, instantiate
from cifar10.core.secrets import mask

Group = dict[str, Any]


def build_loggers(group: Mapping[str, Any] | None, folder: Path) -> dict[str, Logger]:
    """The loggers of a run in `folder`, by dotted key, from specifications by name."""
    built = {}
    for name, spec in (group or {}).items():
        if spec is None:
            continue
        where = f"logger.{name}"
        typed = spec if isinstance(spec, dict) else {}
        given: Group = {"save_dir": str(folder)}
        match str(typed.get("_target_")).rpartition(".")[2]:
            case "TensorBoardLogger":
                check_types(writer_limits, typed, f"{where}.")
            case "WandbLogger":
                require("wandb", where)
                given["name"] = folder.name
                # Its metadata has the command line, which may contain passwords.
                os.environ.setdefault("WANDB_X_DISABLE_META", "true")
            case "MLFlowLogger":
                require("mlflow", where)
                given["run_name"] = folder.name
        given = {key: value for key, value in given.items() if key not in typed}
        built[where] = instantiate(spec, where, Logger, **given)
    return built


def require(package: str, where: str) -> None:
    if find_spec(package) is None:
        raise SettingError(f"{where}: needs {package}; run pip install -e '.[{package}]'")


def writer_limits(
    max_queue: Annotated[int, Ge(1)],
    flush_secs: Annotated[int, Ge(1)],
    filename_suffix: Annotated[str, StringConstraints(pattern=r"^[\w-]*$")],
    comment: str,
) -> None:
    """The arguments that TensorBoardLogger passes on unchecked to its writer."""


def log_figures(loggers: Iterable[Logger], images: Mapping[str, bytes], step: int) -> None:
    """Add PNG files, by name, to the loggers that show figures."""
    for logger in loggers:
        for name, png in images.items():
            image = Image.open(io.BytesIO(png)).convert("RGB")
            if isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(image)
                logger.experiment.add_image(f"figures/{name}", pixels, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"figures/{name}", [image])
            elif isinstance(logger, MLFlowLogger):
                file = f"figures/{name}.png"
                logger.experiment.log_image(logger.run_id, image, artifact_file=file)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()


def end_loggers(loggers: Iterable[Logger], failed: bool) -> None:
    """End the run of Weights & Biases, which the next run of a sweep would continue."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish(exit_code=int(failed))


def where_to_look(loggers: Iterable[Logger], folder: Path) -> list[str]:
    """What to do to see the curves of a finished run, a line for each logger."""
    is_default = folder.parent.resolve() == Path("outputs").resolve()
    lines = []
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logdir = "outputs" if is_default else shlex.quote(str(folder.parent))
            lines.append(f"tensorboard --logdir {logdir}")
        elif isinstance(logger, CSVLogger):
            lines.append(f"open {Path(logger.log_dir, logger.experiment.NAME_METRICS_FILE)}")
        elif isinstance(logger, WandbLogger):
            run = logger.experiment
            lines.append(run.url or f"wandb sync {Path(run.dir).parent}")
        elif isinstance(logger, MLFlowLogger):
            uri = mask(str(logger._tracking_uri))
            is_server = uri.startswith("http")
            lines.append(f"open {uri}" if is_server else f"mlflow ui --backend-store-uri {uri}")
    return lines
