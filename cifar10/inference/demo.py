"""The web demo: a local Gradio page that classifies images."""

import contextlib
import importlib.util
import ipaddress
import logging
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
from cifar10.data import CLASSES, IMAGE_SIZE
from cifar10.data.images import UnreadableImage, read_image
from cifar10.data.sample import read_sample
from cifar10.inference.same_origin import SameOriginOnly
from cifar10.runs.load import load
from cifar10.runs.signals import Interrupted
from cifar10.training.classifier import Classifier

log = logging.getLogger(__name__)

ZOOM = 8  # screen pixels per pixel of the network's input
MAX_UPLOAD = "20mb"
# Decoded by Pillow's own libraries; others may start programs (EPS: Ghostscript).
FORMATS = ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]
TYPICAL = 0.95  # share of CIFAR-10's test images whose confidence is above the threshold

TITLE = "What is in this image?"
INTRO = (
    "The network always chooses one of {} classes: {}. Images are processed by the computer that "
    "serves this page; uploads are deleted after an hour."
)


def confidence_threshold(classifier: Classifier) -> float:
    """Confidence that 95% of CIFAR-10's test images exceed; 0 for a model of other classes.

    Images of other things tend to get lower confidence: the baseline of Hendrycks and Gimpel
    (2017), https://arxiv.org/abs/1610.02136.
    """
    if tuple(classifier.classes) != tuple(CLASSES):
        return 0.0
    return float(classifier.predict(read_sample().test_images).amax(1).quantile(1 - TYPICAL))


def classify(path: str | None, classifier: Classifier, threshold: float) -> tuple[Any, Any, str]:
    """Classify an image file for the page.

    Returns:
        The network's input, enlarged, uint8 (256, 256, 3); probabilities by class; a remark.
    """
    if path is None:
        return None, None, ""
    try:
        image = read_image(path, FORMATS)
    except UnreadableImage as error:
        reason = str(error).removeprefix(f"{path}: ")
        return None, None, f"**Cannot read this file: {reason}.**"
    probabilities = classifier.predict(image[None])[0]
    pixels = image.permute(1, 2, 0).numpy().repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    remark = ""
    if probabilities.max() < threshold:
        remark = (
            f"**This may be none of the {len(CLASSES)} classes:** the confidence is below "
            f"{threshold:.0%}, lower than for {TYPICAL:.0%} of CIFAR-10's test images."
        )
    return pixels, dict(zip(classifier.classes, probabilities.tolist(), strict=True)), remark


def write_examples(folder: Path) -> list[str]:
    """Save one test image per class as PNG; return the paths."""
    sample, paths = read_sample(), []
    for label, name in enumerate(CLASSES):
        image = sample.test_images[sample.test_labels == label][0].permute(1, 2, 0)
        paths.append(str(folder / f"{name}.png"))
        Image.fromarray(np.ascontiguousarray(image)).save(paths[-1])
    return paths


def build_page(models: Sequence[str], examples: Sequence[str], folder: Path) -> Any:
    """Build the page as Gradio Blocks.

    Args:
        models: as for `load`; the first is preselected.
        examples: paths of images to offer.
        folder: holds uploads and examples; the page reads no file outside it.
    """
    import gradio as gr

    classifiers = {model: load(model) for model in models}
    thresholds = {name: confidence_threshold(model) for name, model in classifiers.items()}

    def intro(model: str) -> str:
        classes = classifiers[model].classes
        return INTRO.format(len(classes), ", ".join(classes))

    def look(path: str | None, model: str) -> tuple[Any, Any, str, str]:
        # Requests sent without a browser may name any file and any model. The path is not resolved,
        # since that makes Windows contact other machines for some paths.
        if path and not Path(os.path.abspath(path)).is_relative_to(folder):  # noqa: PTH100 - above
            path = None
        model = model if model in models else models[0]
        with torch.inference_mode():
            return *classify(path, classifiers[model], thresholds[model]), intro(model)

    # Every 10 minutes, delete uploads older than an hour.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {TITLE}")
        text = gr.Markdown(intro(models[0]))
        with gr.Row():
            with gr.Column():
                sources = ["upload", "clipboard", "webcam"]
                image = gr.Image(label="Your image", sources=sources, type="filepath", height=320)
                # Skip Gradio's decoding: `classify` reads the file and reports errors.
                image.preprocess = lambda upload: upload and upload.path
                model = gr.Dropdown(list(models), label="Model", interactive=len(models) > 1)
                remark = gr.Markdown()
            with gr.Column():
                prediction = gr.Label(num_top_classes=5, label="Prediction")
                seen = gr.Image(
                    label=f"Network input ({IMAGE_SIZE}x{IMAGE_SIZE} pixels)",
                    interactive=False,
                    height=ZOOM * IMAGE_SIZE,
                    buttons=[],
                )
        gr.Examples(list(examples), image, label="CIFAR-10 test images")
        for event in (image.change, model.change):
            outputs = [seen, prediction, remark, text]
            event(look, [image, model], outputs, show_progress="hidden")
    return blocks


async def refuse_fetch(host: str) -> str:
    """Replace Gradio's host check, so that no request makes this machine fetch a URL."""
    raise ValueError(f"{host}: this page fetches nothing from other machines")


def find_address(host: str, port: int) -> str:
    """Resolve a host to the IPv4 address to listen on.

    Raises:
        SettingError: the host is unknown or not this machine's, or the port is taken.
    """
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET)[0][4]
        with socket.create_server(address):
            return str(address[0])
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"{host}:{port}: cannot listen on this IPv4 address and port; choose others with "
            "--host and --port"
        ) from error


def serve(models: Sequence[str], host: str, port: int) -> None:
    """Serve the page until the program is interrupted.

    Raises:
        SettingError: Gradio is not installed, or the address cannot be used.
        UserError: a model cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SettingError("demo: needs gradio; install with: pip install -e '.[demo]'")
    address = find_address(host, port)
    log.info("Loading %s …", " and ".join(models))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        (folder / "examples").mkdir()
        uploads = str(folder / "uploads")
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads}
        import gradio as gr
        import safehttpx
        from starlette.middleware import Middleware

        safehttpx.async_validate_url = refuse_fetch  # called before every fetch
        name = socket.gethostname()
        hosts = ("localhost", host, name, f"{name}.local")
        blocks = build_page(models, write_examples(folder / "examples"), folder)
        blocks.launch(
            server_name=address,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            enable_monitoring=False,
            app_kwargs={"middleware": [Middleware(SameOriginOnly, hosts=hosts)]},
            # Gradio's own themes download fonts.
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
        print(f"Open http://{host}:{port}/ (Ctrl-C stops the demo)", flush=True)
        if not ipaddress.ip_address(address).is_loopback:
            print("Warning: no password; anyone on the network can use this page", flush=True)
        with contextlib.suppress(Interrupted):
            blocks.block_thread()
