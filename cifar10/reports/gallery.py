"""What a finished run leaves to look at: pictures, a report page, TensorBoard's images."""

import io
import logging
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from cifar10.core.errors import one_line
from cifar10.core.files import atomic_write
from cifar10.data.module import InMemoryDataModule
from cifar10.reports import figures, report
from cifar10.training.metrics import Predictions, detailed_scores

log = logging.getLogger(__name__)

FOLDER = "figures"
SOME = 50  # images in a grid


class Gallery(Callback):
    """Keeps what the network says of the test set, and draws at the end of the run."""

    def __init__(self):
        self.said: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.said = []

    def on_test_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        self.said.append(outputs.float().cpu())

    def on_test_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        parts = [self.said]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self.said)
        # Each global batch was dealt out to the ranks image by image; see `data.loader`.
        whole = []
        for batch in zip_longest(*parts, fillvalue=torch.empty(0)):
            logits = batch[0].new_empty(sum(map(len, batch)), batch[0].size(1))
            for rank, part in enumerate(batch):
                if len(part):  # the last batch may be too small for all
                    logits[rank :: len(batch)] = part
            whole.append(logits)
        self.said = whole

    def draw(self, trainer: L.Trainer, folder: Path, result: Mapping[str, Any]) -> None:
        """Leave pictures and the report in a run's folder. What fails is only logged."""
        try:
            drawn = of_run(trainer.lightning_module, trainer.datamodule, result, self.said)
            pictures = save(drawn, folder / FOLDER)
            with atomic_write(folder / report.NAME) as file:
                file.write(report.page(result, pictures).encode())
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    for name, picture in pictures.items():
                        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
                        step = trainer.global_step
                        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
                    logger.experiment.flush()
        except Exception as error:  # a run is not lost for a picture
            log.warning("the run's pictures are incomplete: %s", one_line(error))


def of_run(
    classifier: L.LightningModule,
    data: InMemoryDataModule,
    result: Mapping[str, Any],
    said: list[Tensor],
) -> dict[str, Figure]:
    """All figures of a run, by the name of their file."""
    spread = data.train_indices[:: max(1, len(data.train_indices) // SOME)][:SOME]
    batches = data.loader(spread, augment=data.augment, seed=data.seed)
    as_seen = torch.cat([images for images, _ in batches])
    labels = data.labels[data.train_indices]
    drawn = {
        "curves": figures.training_curves(result["history"]),
        "augmented": figures.image_grid(as_seen),
        "samples": figures.class_samples(data.images(data.train_indices), labels, data.classes),
    }
    if said:
        logits = torch.cat(said)
        indices = data.test_indices[: len(logits)]
        answers = Predictions(logits, data.labels[indices].cpu())
        scores = detailed_scores(answers, data.classes)
        drawn |= of_answers(scores, answers, data.images(indices))
    first = next((m for m in classifier.network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels == 3:
        drawn["filters"] = figures.first_layer_filters(first.weight.detach().float().cpu())
    return drawn


def of_answers(
    scores: Mapping[str, Any], answers: Predictions, images: Tensor
) -> dict[str, Figure]:
    """Figures of what a classifier said of a split, by the name of their file.

    Args:
        scores: what `evaluation.detail` gives.
        images: those of the split, uint8 (N, 3, 32, 32).
    """
    names = list(scores["per_class"])
    probabilities = answers.logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    right = predicted == answers.labels
    drawn = {
        "confusion": figures.confusion_matrix(torch.tensor(scores["confusion"]), names),
        "per_class": figures.class_accuracy(scores["per_class"]),
        "reliability": figures.calibration(confidence, right, scores["calibration_error"]),
    }
    if not right.all():
        drawn["mistakes"] = figures.confident_errors(images, answers.labels, probabilities, names)
    return drawn


def save(drawn: Mapping[str, Figure], folder: Path) -> dict[str, bytes]:
    """Write figures as PNG files; gives their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in drawn.items():
        pictures[name] = figures.to_png(figure)
        with atomic_write(folder / f"{name}.png") as file:
            file.write(pictures[name])
    return pictures
