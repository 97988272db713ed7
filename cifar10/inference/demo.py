"""The web demo: a local Gradio page that classifies images."""

import contextlib
import hmac
import importlib.util
import ipaddress
import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from cifar10.core.display import short, short_names
from cifar10.core.errors import SettingError
from cifar10.data import CLASSES, IMAGE_SIZE
from cifar10.data.images import UnreadableImage, read_image
from cifar10.data.sample import read_sample
from cifar10.inference.demo_access import SameOriginOnly, find_address, refuse_fetch, shown_address
from cifar10.runs.load import load
from cifar10.runs.signals import Interrupted
from cifar10.training.classifier import Classifier

log = logging.getLogger(__name__)

ZOOM = 8  # screen pixels per pixel of the network's input
MAX_UPLOAD = "20mb"
FORMATS = ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]  # what browsers send
TYPICAL = 0.95  # share of CIFAR-10's test images whose confidence is above the threshold

TITLE = "What is in this image?"
INTRO = (
    "The network always chooses one of {} classes: {}. Images are processed by the computer that "
    "serves this page; uploads are deleted after an hour."
)


def confidence_threshold(classifier: Classifier) -> float:
    """Confidence that 95% of CIFAR-10's test images exceed; 0 for a model of other classes.

    Images of other things tend to get a lower one: https://arxiv.org/abs/1610.02136.
    """
    if tuple(classifier.classes) != tuple(CLASSES):
        return 0.0
    return float(classifier.predict(read_sample().test_images).amax(1).quantile(1 - TYPICAL))


def classify(path: str | None, classifier: Classifier, threshold: float) -> tuple[Any, Any, str]:
    """The network's input, enlarged, uint8 (256, 256, 3); probabilities by class; a remark."""
    if path is None:
        return None, None, ""
    try:
        image = read_image(path, FORMATS)
    except UnreadableImage as error:
        return None, None, f"**Cannot read this file: {str(error).removeprefix(f'{path}: ')}.**"
    probabilities = classifier.predict(image[None])[0]
    pixels = image.permute(1, 2, 0).numpy().repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    remark = ""
    if probabilities.max() < threshold:
        remark = (
            f"**Low confidence: this may be none of the {len(CLASSES)} classes.** "
            f"{TYPICAL:.0%} of CIFAR-10's test images score above {threshold:.0%}."
        )
    names = short_names(classifier.classes)
    return pixels, dict(zip(names, probabilities.tolist(), strict=True)), remark


def plain_markdown(name: str) -> str:
    """Escape a class's name for Markdown, which could otherwise load images of other servers."""
    return re.sub(r"([^\w\s])", r"\\\1", short(name))


def write_examples(folder: Path) -> list[str]:
    """Save one test image per class as PNG; return the paths."""
    sample, paths = read_sample(), [str(folder / f"{name}.png") for name in CLASSES]
    for label, path in enumerate(paths):
        image = sample.test_images[sample.test_labels == label][0].permute(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(image)).save(path)
    return paths


def build_page(models: Sequence[str], examples: Sequence[str], folder: Path) -> Any:
    """Build the page as Gradio Blocks; it reads no file outside `folder`."""
    import gradio as gr

    # Gradio shows the names to visitors before they enter a password: no paths.
    labels = short_names([Path(model).name or model for model in models])
    classifiers = {label: load(model) for label, model in zip(labels, models, strict=True)}
    thresholds = {name: confidence_threshold(model) for name, model in classifiers.items()}

    def look(path: str | None, model: str) -> tuple[Any, Any, str, str]:
        # Requests sent without a browser may name any file and any model. The path is not resolved,
        # since that makes Windows contact other machines for some paths.
        if path and not Path(os.path.abspath(path)).is_relative_to(folder):  # noqa: PTH100 - above
            path = None
        model = model if model in labels else labels[0]
        classes = classifiers[model].classes
        text = INTRO.format(len(classes), ", ".join(map(plain_markdown, classes)))
        return *classify(path, classifiers[model], thresholds[model]), text

    # Every 10 minutes, delete uploads older than an hour.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {TITLE}")
        text = gr.Markdown(look(None, labels[0])[-1])
        with gr.Row():
            with gr.Column():
                sources = ["upload", "clipboard", "webcam"]
                image = gr.Image(label="Your image", sources=sources, type="filepath", height=320)
                # Skip Gradio's decoding: `classify` reads the file and reports errors.
                image.preprocess = lambda upload: upload and upload.path
                model = gr.Dropdown(labels, label="Model", interactive=len(models) > 1)
                remark = gr.Markdown()
            with gr.Column():
                prediction = gr.Label(num_top_classes=5, label="Prediction")
                label = f"Network input ({IMAGE_SIZE}x{IMAGE_SIZE} pixels)"
                height = ZOOM * IMAGE_SIZE
                seen = gr.Image(label=label, interactive=False, height=height, buttons=[])
        gr.Examples(list(examples), image, label="CIFAR-10 test images")
        outputs = [seen, prediction, remark, text]
        for event in (image.change, model.change):
            event(look, [image, model], outputs, show_progress="hidden")
    return blocks


def serve(
    models: Sequence[str], host: str, port: int, allowed: Sequence[str], password: str | None
) -> None:
    """Serve the page until the program is interrupted.

    Args:
        allowed: further host names, under which a proxy or another network shows the page.
        password: visitors must enter it, with any user name; None: they need none.

    Raises:
        UserError: Gradio is missing, the address cannot be used, or a model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SettingError("demo: needs gradio; install with: pip install -e '.[demo]'")

    def is_password(_: str, typed: str) -> bool:
        return hmac.compare_digest(typed.encode(), str(password).encode())

    address = find_address(host, port)
    log.info("Loading %s …", " and ".join(models))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
        import gradio as gr
        import safehttpx
        from starlette.middleware import Middleware

        safehttpx.async_validate_url = refuse_fetch  # called before every fetch
        name = socket.gethostname()
        others = (urlsplit(f"//{each.rpartition('://')[2]}").hostname or each for each in allowed)
        hosts = ("localhost", host, name, f"{name}.local", *others)
        blocks = build_page(models, write_examples(folder), folder)
        blocks.launch(
            server_name=f"[{address}]" if ":" in address else address,
            server_port=port,
            share=False,
            ssr_mode=False,  # its server would hide from us where a request comes from
            auth=is_password if password else None,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            enable_monitoring=False,
            app_kwargs={"middleware": [Middleware(SameOriginOnly, hosts=hosts)]},
            # Gradio's own themes download fonts.
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
        print(f"Open http://{shown_address(address, host)}:{port}/ (Ctrl-C stops the demo)")
        if not (password or ipaddress.ip_address(address).is_loopback):
            print("Warning: anyone on the network can use this page; set a password: --password")
        sys.stdout.flush()
        with contextlib.suppress(Interrupted):
            blocks.block_thread()
