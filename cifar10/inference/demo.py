"""A local page that says what is on a picture."""

import contextlib
import importlib.util
import ipaddress
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cifar10.core.errors import SettingError
from cifar10.data import CLASSES, sample
from cifar10.data import images as pictures
from cifar10.data.checksums import IMAGE_SIZE
from cifar10.inference.demo_access import OwnPage, address_of, taken
from cifar10.runs.load import load
from cifar10.runs.signals import Interrupted
from cifar10.training.classifier import Classifier

LARGER = 8  # times that the 32x32 pixels are shown
LARGEST = "20mb"  # of a picture that is uploaded
FORMATS = (
    "AVIF",
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "TIFF",
    "WEBP",
)  # whose decoders are in Pillow itself
SURER = 0.95  # share of CIFAR-10's own images on which a network is surer than where it is doubted

TITLE = "What is on this picture?"
KNOWS = (
    "The network looks at 32x32 pixels and answers with one of {} things, whatever it is shown: "
    "{}. All of it happens on this machine."
)


def require() -> None:
    """Raise a SettingError if Gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        raise SettingError("demo: Gradio must be installed: pip install -e '.[demo]'")


def least_sure(classifier: Classifier) -> float:
    """How sure a network is at least of 95 % of CIFAR-10's own test images; 0 for other classes.

    A picture of something else gets a lower highest probability than most that belong: the
    baseline of Hendrycks and Gimpel (2017, https://arxiv.org/abs/1610.02136).
    """
    if list(classifier.classes) != list(CLASSES):
        return 0.0
    return float(classifier.predict(sample.read_sample().test_images).amax(1).quantile(1 - SURER))


def answer(path: str | None, classifier: Classifier, doubt: float) -> tuple[Any, Any, str]:
    """What the page shows of a picture: its 32x32 pixels, each class's probability, a remark."""
    if path is None:
        return None, None, ""
    try:
        picture = pictures.read_image(path, FORMATS)
    except pictures.UnreadableImage as error:
        why = str(error).removeprefix(f"{path}: ")
        return None, None, f"**This file {why}.**"
    chances = classifier.predict(picture[None])[0]
    pixels = picture.permute(1, 2, 0).numpy()
    seen = pixels.repeat(LARGER, axis=0).repeat(LARGER, axis=1)
    remark = ""
    if chances.max() < doubt:
        remark = (
            f"**This may be none of the ten.** The network is less than {doubt:.0%} sure; "
            f"it is surer of {SURER:.0%} of CIFAR-10's own test images."
        )
    named = dict(zip(classifier.classes, chances.tolist(), strict=True))
    return seen, named, remark


def examples(folder: Path) -> list[str]:
    """Put a test image of each class into a folder, as files."""
    images, labels = sample.read_sample()[2:4]
    paths = []
    for label, name in enumerate(CLASSES):
        path = folder / f"{name}.png"
        first = images[(labels == label).nonzero()[0, 0]]
        Image.fromarray(np.ascontiguousarray(first.permute(1, 2, 0))).save(path)
        paths.append(str(path))
    return paths


def page(models: Sequence[str], files: Sequence[str], place: Path) -> Any:
    """The page, as Gradio's Blocks.

    Args:
        models: as `cifar10 predict --model` takes them; the first is chosen.
        files: pictures to begin with.
        place: the folder that all pictures to look at are in; no other file is read.
    """
    import gradio as gr

    known = {model: load(model) for model in models}
    doubts = {model: least_sure(classifier) for model, classifier in known.items()}

    def knows(model: str) -> str:
        names = known[model].classes
        return KNOWS.format(len(names), ", ".join(names))

    def look(path: str | None, model: str) -> tuple[Any, Any, str, str]:
        # Who speaks to the page without a browser may name any file. Not resolved, as some paths
        # of Windows make it ask another machine.
        if path and not Path(os.path.abspath(path)).is_relative_to(place):  # noqa: PTH100 - above
            path = None
        model = model if model in models else models[0]  # that without a browser may be anything
        with torch.inference_mode():
            return *answer(path, known[model], doubts[model]), knows(model)

    # Uploads are forgotten after an hour.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {TITLE}")
        text = gr.Markdown(knows(models[0]))
        with gr.Row():
            with gr.Column():
                sources = ["upload", "clipboard", "webcam"]
                picture = gr.Image(
                    label="your picture", sources=sources, type="filepath", height=320
                )
                # Handed on as it came: this program reads it, and says what is wrong with it.
                picture.preprocess = lambda upload: upload and upload.path
                model = gr.Dropdown(list(known), label="network", interactive=len(known) > 1)
                remark = gr.Markdown()
            with gr.Column():
                chances = gr.Label(num_top_classes=5, label="what the network says")
                side = LARGER * IMAGE_SIZE
                seen = gr.Image(
                    label="the 32x32 pixels that it sees",
                    interactive=False,
                    height=side,
                    buttons=[],
                )
        gr.Examples(list(files), picture, label="some of CIFAR-10's own")
        for event in (picture.change, model.change):
            event(look, [picture, model], [seen, chances, remark, text], show_progress="hidden")
    return blocks


async def refuse(host: str) -> str:
    """For Gradio's check of hosts: no page may have this machine fetch what it names."""
    raise ValueError(f"{host}: this page asks no other machine")


def serve(models: Sequence[str], host: str, port: int) -> None:
    """Show the page until the program is stopped.

    Raises:
        SettingError: Gradio is not installed, there is no model, or no listening at this address.
    """
    require()
    if not models:
        raise SettingError("demo: no model is shipped; name a run's folder with --model")
    address = address_of(host, port)
    with tempfile.TemporaryDirectory() as given:
        place = Path(given).resolve()
        uploads, shown = Path(place, "uploads"), Path(place, "examples")
        shown.mkdir()
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(uploads)}
        import gradio as gr
        import safehttpx
        from starlette.middleware import Middleware

        safehttpx.async_validate_url = refuse  # before each fetch of an address
        name = socket.gethostname()
        hosts = ("localhost", host, name, f"{name}.local")
        blocks = page(models, examples(shown), place)
        try:
            blocks.launch(
                server_name=address,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=LARGEST,
                footer_links=[],
                enable_monitoring=False,
                app_kwargs={"middleware": [Middleware(OwnPage, hosts=hosts)]},
                # Gradio's own themes fetch their fonts from elsewhere.
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:  # taken since
            raise taken(host, port) from error
        print(f"look at http://{host}:{port}/ (Ctrl-C ends it)", flush=True)
        if not ipaddress.ip_address(address).is_loopback:
            print("whoever reaches this machine can use the page: it has no password", flush=True)
        with contextlib.suppress(Interrupted):  # this is how it ends
            blocks.block_thread()
