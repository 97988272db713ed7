"""The command `cifar10`: use what was trained.

Thin over functions that a notebook can call; torch is imported only once a command needs it.
"""

import logging
import os
import sys
import warnings
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cifar10.core.errors import UserError, printable
from cifar10.core.settings import expand_user
from cifar10.runs.signals import Interrupted, signals

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="The data set, by hand.", no_args_is_help=True)
app.add_typer(data, name="data")

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A shipped model, a run's folder or a checkpoint.")
]


WIDEST = 20  # classes whose confusion has room on the screen


class Split(StrEnum):
    test = "test"
    val = "val"


class Format(StrEnum):
    onnx = "onnx"
    torch = "torch"


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
    """Use CIFAR-10 classifiers. Training is `python train.py`."""


@app.command()
def predict(
    paths: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, or globs.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model, a run's folder or a checkpoint.")
    ] = "airnet",
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line for each class.")] = False,
) -> None:
    """Say what is on pictures.

    Any picture that Pillow reads, of any size: the short side is shrunk to 32 pixels and the middle
    kept. Pictures of 32x32 pixels go through untouched.
    """
    if as_json and as_csv:
        raise UserError("--json and --csv: choose one of them")
    from cifar10.data import images as pictures
    from cifar10.inference import predict as answers
    from cifar10.runs.load import load

    files, others, faults = pictures.find_images(paths)
    if not files:
        raise UserError("; ".join(map(str, faults)))
    classifier = load(model)
    for fault in faults:
        print(f"error: {printable(str(fault))}", file=sys.stderr)
    failed: list[Path] = []
    show = answers.print_json if as_json else answers.print_csv if as_csv else answers.print_bars
    show(answers.predict_files(files, classifier, top, failed))
    if others:
        print(f"files of other kinds passed over: {others}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(files)} files gave no picture", file=sys.stderr)
    if failed or faults:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: ModelArgument,
    split: Annotated[Split, typer.Option(help="Images to score.")] = Split.test,
    views: Annotated[
        bool, typer.Option("--views", help="Also with mirrored and six views, named apart.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json and the pictures; by default in the run's, or here."
        ),
    ] = None,
) -> None:
    """Score a model, and draw its mistakes.

    Loss, top-1/3/5, each class, calibration and confusion go to the screen and, with pictures, into
    a folder. The test split gives the digits of the run's own result.json.
    """
    from cifar10.inference import evaluate as evaluation
    from cifar10.reports import run_report
    from cifar10.runs.load import load

    classifier = load(model)
    settings, precision, digest = evaluation.evaluation_settings(model, split.value)
    folder = expand_user(out) if out else evaluation.default_output_dir(model, split.value)
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written to is known before the work
    module, batches = evaluation.open_split(settings, split.value, digest)
    scores, said = evaluation.evaluate(classifier, batches, precision, views)
    print_scores(scores)
    record = {"model": model, "split": split.value, "data": module.digest, "precision": precision}
    evaluation.write_evaluation(folder, record | scores)
    indices = module.test_indices if split is Split.test else module.val_indices
    run_report.save_figures(
        run_report.prediction_figures(scores, said, module.images(indices)), folder
    )
    print(f"{'written to':<18} {folder}")


def print_scores(scores: dict) -> None:
    def line(name: str, value: str) -> None:
        print(f"{name:<18} {value}")

    line("images", f"{scores['images']:,}")
    line("loss", f"{scores['loss']:.4f}")
    for k in (1, 3, 5):
        line(f"top-{k}", f"{scores[f'top{k}']:.2%}")
    for name in ("mirrored", "six_views"):
        if name in scores:
            line(f"top-1, {name.replace('_', ' ')}", f"{scores[name]['top1']:.2%}")
    line("calibration error", f"{scores['calibration_error']:.2%}")
    for name, value in scores["per_class"].items():
        line(f"  {name}", f"{value:.2%}")
    classes = list(scores["per_class"])
    if len(classes) <= WIDEST:
        line("confusion, of", " ".join(f"{name[:5]:>5}" for name in classes))
        for name, counts in zip(classes, scores["confusion"], strict=True):
            line(f"  {name}", " ".join(f"{count:>5}" for count in counts))


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[Format, typer.Option(help="onnx, or torch for a torch.export program.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; MODEL.onnx or MODEL.pt2 here.")
    ] = None,
) -> None:
    """Write a model as one file of its own.

    It takes uint8 images (N, 3, 32, 32) and gives probabilities (N, classes); normalisation,
    softmax and the names of the classes are inside. It is compared with PyTorch on 1,000 test
    images before it is put in place.
    """
    from cifar10 import zoo
    from cifar10.inference import evaluate as evaluation
    from cifar10.inference import export
    from cifar10.runs.load import load

    export.require_packages(to.value)
    classifier = load(model, "cpu")
    name = model if model in zoo.pretrained_names() else expand_user(model).resolve().stem
    path = expand_user(out) if out else Path(f"{name}.{'onnx' if to is Format.onnx else 'pt2'}")
    if path.exists():
        raise UserError(f"{path} is there already: remove it, or give another with --out")
    settings, _, digest = evaluation.evaluation_settings(model)
    module, _ = evaluation.open_split(settings, "test", digest)
    images = module.images(module.test_indices[:1000])
    figures = export.export(classifier, to.value, path, images)
    print(f"{'written to':<18} {path}")
    for key, value in figures.items():
        print(f"{key:<18} {value}")


@app.command()
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="As for predict; again for each to choose from."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
) -> None:
    """Serve a page to drop pictures on."""
    from cifar10 import zoo
    from cifar10.inference import demo

    demo.serve(model or zoo.pretrained_names(), host, port)


@app.command()
def summarize(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, or any with runs below it.")],
) -> None:
    """Sum up the runs of a sweep.

    Gives a table with seeds merged; leaves summary.csv and pictures in the folder.
    """
    from cifar10.sweeps import table as sweeps

    print(sweeps.summarise(expand_user(folder)))


@data.command()
def fetch() -> None:
    """Find or fetch CIFAR-10 and prepare it, as training does by itself."""
    from cifar10.core.settings import compose_settings
    from cifar10.inference.evaluate import open_split

    open_split(compose_settings()["data"], "test")
    where()


@data.command()
def verify() -> None:
    """Check the prepared data's SHA-256."""
    from cifar10.data import prepare as archive
    from cifar10.data.checksums import CIFAR10

    path = prepared()
    if archive.read_prepared(path, CIFAR10) is None:
        what = "is damaged" if path.exists() else "is not there"
        raise UserError(f"{path} {what}: `cifar10 data fetch` prepares it")
    print(f"{path}: all six batches have their published SHA-256")


@data.command()
def where() -> None:
    """Say where the prepared data is, or would be."""
    print(prepared())


def prepared() -> Path:
    from cifar10.core.settings import compose_settings
    from cifar10.data import prepare as archive

    folder = compose_settings()["data"]["dir"]
    if not folder:
        raise UserError("CIFAR10_DATA_DIR is empty: it must name a folder, or not be set")
    return expand_user(folder).absolute() / archive.PREPARED_FILE


def main() -> None:
    """The console script: what a user can mend ends in one line."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - where it was closed
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cifar10").setLevel(logging.INFO)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # a bad file is told of in one line
    warnings.filterwarnings("ignore", module="PIL")
    signals.listen()
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        complain(error.format_message().replace("Value error, ", ""), 2)
    except UserError as error:
        complain(str(error), 2)
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {error.strerror or error}", 2)
    except (Interrupted, typer.Abort) as stop:
        complain(str(stop) or "stopped", getattr(stop, "exit_code", 130))


def complain(line: str, code: int) -> None:
    usage = line.startswith("Usage: ")  # of a command that was given nothing
    print(line if usage else f"error: {printable(line)}", file=sys.stderr)
    sys.exit(code)
