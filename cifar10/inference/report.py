"""Draw the report of a finished run anew, from its files."""

import logging
from pathlib import Path
from typing import Any

from cifar10.core.errors import SettingError, UserError
from cifar10.inference.evaluate import evaluate
from cifar10.inference.splits import how_tested, open_data
from cifar10.reports.run_report import PAGE, write_report
from cifar10.runs.load import load
from cifar10.runs.result import RESULT_FILE, image_count, read_result, repeat_command

log = logging.getLogger(__name__)


def draw_report(folder: Path, data_settings: dict[str, Any] | None = None) -> Path:
    """Write report.html and the figures of a run; returns the page.

    `data_settings` are those of its data, by default as recorded and found on this machine.

    Raises:
        UserError: the run is unfinished, its data or checkpoint is gone, or drawing failed.
    """
    if not folder.is_dir():
        raise SettingError(f"{folder}: no such run folder")
    result = read_result(folder / RESULT_FILE)
    if result["status"] != "ok":
        raise SettingError(f"{folder}: has no results yet, its status is {result['status']}")
    classifier = load(folder)
    tested = how_tested(folder)
    data = open_data(tested._replace(data=data_settings or tested.data))
    batches = data.test_dataloader()
    _, predictions = evaluate(classifier, batches, tested.precision, views=False)
    command = repeat_command(result, str(folder), with_seed=True)
    logits = [predictions.logits[: image_count(result["data"], "test")]]
    page = write_report(folder, result, command, classifier, data, logits)
    if page is None:
        raise UserError(f"{folder}: the report could not be drawn")
    return page


def finish_report(settings: dict[str, Any], result: dict[str, Any], folder: Path) -> None:
    """Draw a finished run's missing report."""
    if settings["report"] and result["status"] == "ok" and not (folder / PAGE).exists():
        log.info("drawing the report …")
        try:
            draw_report(folder, settings["data"])
        except UserError as error:  # the run itself is complete
            log.warning("Warning: report not drawn: %s; retry with cifar10 report RUN", error)
