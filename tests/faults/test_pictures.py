"""Picture files, malformed by the hundred: each answered or refused in one line."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cifar10 import cli
from cifar10.data import CLASSES

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I", "I;16", "F", "YCbCr", "LAB", "HSV")
HARMS = ("none", "half", "bits", "suffix", "random", "empty", "head", "tail", "long")


def made(chance) -> tuple[str, bytes]:
    """A picture of some format, mode and size, harmed in some way; its suffix and bytes."""
    pixels = np.frombuffer(chance.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)
    picture = Image.fromarray(pixels).resize((chance.randint(1, 200), chance.randint(1, 200)))
    form, mode = chance.choice(FORMATS), chance.choice(MODES)
    buffer = io.BytesIO()
    try:
        grey = mode in ("I", "I;16", "F")
        picture = (picture.convert("L") if grey else picture).convert(mode)
        more = [picture.copy()] * chance.choice([0, 0, 2])
        picture.save(buffer, form, **dict(save_all=True, append_images=more) if more else {})
    except (OSError, ValueError, KeyError):  # this format has no such mode
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, form)
    data, harm = bytearray(buffer.getvalue()), chance.choice(HARMS)
    if harm == "half":
        data = data[: len(data) // 2]
    elif harm == "bits":
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif harm == "random":
        data = bytearray(chance.randbytes(len(data)))
    elif harm == "empty":
        data = bytearray()
    elif harm == "head":  # where sizes stand, often enormous ones then
        for place in range(4, min(40, len(data))):
            data[place] = chance.choice([data[place], 255, 0])
    elif harm == "tail":
        data = data[: -chance.randint(1, 20)]
    elif harm == "long":
        data += chance.randbytes(1000)
    suffix = chance.choice([".jpg", ".png", ".gif"]) if harm == "suffix" else f".{form.lower()}"
    return suffix, bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_malformed_pictures_end_no_prediction(
    trained, chance, long, survived, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = []
    for number in range(1000 if long else 60):
        suffix, data = made(chance)
        paths.append(folder / f"{number:04}{suffix}")
        paths[-1].write_bytes(data)
    monkeypatch.setattr(cli.signals, "listen", lambda: None)
    words = ["cifar10", "predict", *map(str, paths), "-m", str(trained), "--csv", "--top", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    *refusals, last = err.splitlines()
    answered = {line.split(",")[0]: line.split(",")[2] for line in out.splitlines()[1:]}
    for path in paths:
        about = [line for line in refusals if str(path) in line]
        good = answered.get(str(path)) in CLASSES if not about else len(about) == 1
        survived("malformed picture: answered, or refused in one line", good)
        assert good, (path, about)
    assert len(answered) + len(refusals) == len(paths)
    assert last == f"{len(refusals)} of {len(paths)} files gave no picture"
