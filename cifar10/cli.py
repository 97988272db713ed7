"""The command `cifar10`: use trained models. Commands import torch late, so `--help` is fast."""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import TyperException

from cifar10.core.errors import UserError
from cifar10.core.ranks import require_ranks
from cifar10.core.secrets import print_safe, safe, safe_line
from cifar10.core.settings import expand_user
from cifar10.core.streams import set_up_streams
from cifar10.data.commands import data
from cifar10.runs.signals import Interrupted, signals

MODEL = (
    "A pretrained model's name (airnet, convnet), a run folder or a checkpoint file; latest is the "
    "newest run in outputs/."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.pretty_exceptions_enable = False
app.add_typer(data, name="data")

ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}

log = logging.getLogger(__name__)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)]


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"cifar10-trainer {version('cifar10-trainer')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Train and use CIFAR-10 classifiers."""


@app.command(add_help_option=False, context_settings=ANY_WORDS)
def train(context: typer.Context) -> None:
    """Train a classifier, with the settings of `python train.py`; `--help` lists them."""
    from cifar10 import train

    sys.argv = [train.__file__, *context.args]
    train.cli()


@app.command()
def predict(
    paths: Annotated[list[str], typer.Argument(help="Image files, folders or globs.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=MODEL)] = "airnet",
    top: Annotated[int, typer.Option(min=1, help="Classes to show per image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per class.")] = False,
    kaggle: Annotated[
        bool, typer.Option("--kaggle", help="Print CSV of id and label, for Kaggle's CIFAR-10.")
    ] = False,
) -> None:
    """Classify images.

    Accepts all formats and sizes that Pillow reads. Images are resized to 32 px on the shorter
    side, then centre-cropped. Unreadable files are reported and skipped; the exit code is then 1.
    """
    if as_json + as_csv + kaggle > 1:
        raise UserError("--json, --csv and --kaggle: choose one of them")
    from cifar10.inference import predict

    form = "json" if as_json else "csv" if as_csv else "kaggle" if kaggle else "text"
    if not predict.predict(paths, model, top, form):
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: ModelArgument,
    split: Annotated[Literal["test", "val"], typer.Option(help="Images to evaluate on.")] = "test",
    source: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="IMAGES",
            help="Evaluate on other images: a folder of class folders, a CSV file with the columns "
            "path and label, cifar10.1 or cifar10-c.",
        ),
    ] = None,
    views: Annotated[bool, typer.Option("--views", help="Add flip TTA and 6-view TTA.")] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write a CSV file with the prediction of each image.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: a new one in the run, or here.")
    ] = None,
) -> None:
    """Evaluate a model and plot its errors.

    Recomputes the metrics of result.json and adds precision, recall and F1 of each class,
    calibration and a confusion matrix. Saves evaluation.json and figures.
    """
    if source is not None and split != "test":
        raise UserError("--split and --data: choose one of them")
    log.info("Loading %s …", model)
    from cifar10.inference import evaluate

    scores, folder = evaluate.evaluate_model(
        model,
        split,
        source,
        views=views,
        out=out and expand_user(out),
        table=predictions and expand_user(predictions),
    )
    print_safe(f"{evaluate.format_scores(scores)}\n\nsaved to {folder}")


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder; latest is the newest.")],
) -> None:
    """Draw the report and figures of a finished run again."""
    from cifar10.inference.report import draw_report
    from cifar10.runs.run_dir import named_folder

    print_safe(str(draw_report(named_folder(run))))


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[Literal["onnx", "torch"], typer.Option(help="File format.")],
    out: Annotated[Path | None, typer.Option(help="By default MODEL.onnx or MODEL.pt2.")] = None,
) -> None:
    """Export a model to ONNX or torch.export.

    Writes a standalone file; its outputs are checked against PyTorch on 1,000 test images before
    it is saved. Input: uint8 images (N, 3, 32, 32). Output: probabilities (N, classes).
    """
    log.info("Loading %s …", model)
    from cifar10.inference import export

    for name, value in export.export_model(model, to, out and expand_user(out)).items():
        print_safe(f"{name:<18} {value}")


@app.command()
def demo(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help=f"{MODEL} Repeat to offer several."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another host name, as of a proxy; repeatable."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="CIFAR10_PASSWORD", help="Visitors enter it, with any user name."),
    ] = None,
) -> None:
    """Start the web demo. It classifies images that are uploaded, pasted or from a webcam."""
    from cifar10 import zoo
    from cifar10.inference import demo

    demo.serve(models or zoo.pretrained_names(), host, port, allow_host or [], password)


@app.command()
def summarize(
    folders: Annotated[
        list[str], typer.Argument(help="Folders of runs, or runs; latest is the newest sweep.")
    ],
    runs: Annotated[
        bool, typer.Option("--runs", help="Also write runs.csv, a row per run.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Include runs on a part of the data.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder; by default FOLDER.")] = None,
) -> None:
    """Summarize runs. Prints a table averaged over seeds; writes summary.csv and figures."""
    from cifar10.runs.run_dir import LATEST, latest_run
    from cifar10.sweeps import table

    paths = [  # latest: the newest run that is in a folder of runs
        latest_run(pattern="*/*").parent if folder == LATEST else expand_user(folder)
        for folder in folders
    ]
    print(table.summarise(paths, partial=partial, per_run=runs, out=out and expand_user(out)))


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders; latest is the newest run.")
    ],
) -> None:
    """Compare runs: settings and figures that differ, with 95% confidence intervals."""
    from cifar10.runs.run_dir import named_folder
    from cifar10.sweeps.compare import compare

    print(compare(list(map(named_folder, runs))))


def main() -> None:
    """Entry point; errors that users can fix end in one line on stderr and exit code 2."""
    set_up_streams()
    signals.listen()
    try:
        try:
            require_ranks()  # Lightning would end in a traceback
            sys.exit(app(standalone_mode=False))
        except Exception:
            signals.raise_again()
            raise
    except TyperException as error:
        line, code = error.format_message().replace("\n\t", " "), 2
    except UserError as error:
        from cifar10.core.own_code import details_of

        print(safe(details_of(error)), end="", file=sys.stderr)
        line, code = str(error), 2
    except OSError as error:
        line, code = f"{error.filename or 'standard output'}: {error.strerror or error}", 2
    except (Interrupted, typer.Abort) as stop:
        line, code = str(stop) or "interrupted", getattr(stop, "exit_code", 130)
    is_help = line.startswith("Usage: ")  # of a command without arguments
    print(line if is_help else f"error: {safe_line(line)}", file=sys.stderr)
    sys.exit(code)
