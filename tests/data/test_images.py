"""Image files of every kind, and files that are not images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from cifar10.data import images
from cifar10.data.images import UnreadableImage, find_images, read_ahead, read_image, to_32x32

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corner_colours(image: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The colours near the four corners."""
    positions = {"top left": (4, 4), "top right": (4, 27), "bottom left": (27, 4)}
    return {name: tuple(image[:, y, x].tolist()) for name, (y, x) in positions.items()}


def halves(size=(90, 60), left=RED, right=BLUE) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_an_image_of_32x32_pixels_is_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png").permute(1, 2, 0), torch.tensor(pixels))


@pytest.mark.parametrize(
    "size", [(90, 60), (60, 90), (33, 32), (16, 16), (1, 1), (500, 3), (3000, 2000)]
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_any_size_is_resized_to_32x32(size, suffix, tmp_path):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8
    mean = image.flatten(1).float().mean(1)
    torch.testing.assert_close(mean, torch.tensor([200.0, 100, 50]), atol=3, rtol=0)


def test_the_centre_is_cropped(tmp_path):
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    image.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert set(corner_colours(image).values()) == {GREEN}


def test_resizing_is_antialiased(tmp_path):
    """A fine chequered pattern becomes grey."""
    pixels = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inner = read_image(tmp_path / "a.png")[:, 2:-2, 2:-2].float()
    assert (inner - 127.5).abs().max() < 10


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "RGBX"])
def test_every_mode_converts_to_its_rgb_colours(mode):
    image = to_32x32(halves(left=(0, 0, 0), right=WHITE).convert(mode))
    found = corner_colours(image)
    assert max(found["top left"]) < 8
    assert min(found["top right"]) > 247


@pytest.mark.parametrize("dtype,full", [(np.uint16, 65535), (np.int32, 65535), (np.float32, 1)])
def test_16_and_32_bit_grey_levels_are_scaled(dtype, full, tmp_path):
    levels = np.zeros((64, 64), dtype)
    levels[:, 32:] = full
    Image.fromarray(levels).save(tmp_path / "a.tiff")
    found = corner_colours(read_image(tmp_path / "a.tiff"))
    assert found["top left"] == (0, 0, 0)
    assert found["top right"] == WHITE


def test_transparent_pixels_become_white(tmp_path):
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "a.png")
    assert set(corner_colours(read_image(tmp_path / "a.png")).values()) == {WHITE}
    image = halves().convert("P")
    image.save(tmp_path / "b.gif", transparency=image.getpixel((0, 0)))
    assert corner_colours(read_image(tmp_path / "b.gif"))["top left"] == WHITE


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise
    image = Image.new("RGB", (64, 64), RED)
    image.paste(BLUE, (0, 32, 64, 64))
    image.save(tmp_path / "a.png", exif=exif)
    found = corner_colours(read_image(tmp_path / "a.png"))
    assert found["top left"] == BLUE
    assert found["top right"] == RED


def test_of_an_animation_the_first_frame_is_used(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corner_colours(read_image(tmp_path / "a.gif"))["top left"] == RED


def test_a_file_that_is_not_an_image_is_reported_in_one_line(tmp_path, monkeypatch):
    large = tmp_path / "large.png"
    halves((300, 300)).save(large)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "half.png").write_bytes(large.read_bytes()[:200])
    for name, reason in {
        "empty.png": "empty file",
        "text.png": "not an image",
        "large.png": "300x300 pixels, more than 10,000",
        "half.png": "",
        "missing.png": "No such file",
        ".": "not a file",
    }.items():
        monkeypatch.setattr(images, "MAX_PIXELS", 10_000 if name == "large.png" else 10**6)
        with pytest.raises(UnreadableImage) as error:
            read_image(tmp_path / name)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_no_image_starts_ghostscript(tmp_path, monkeypatch):
    halves().save(tmp_path / "a.eps")
    eps = (tmp_path / "a.eps").read_bytes()
    # An IPTC file: a record of the image's size, then its content, here of EPS.
    iptc = bytes([0x1C, 3, 60, 0, 2, 1, 0, 0x1C, 3, 120, 0, 1, 5, 0x1C, 3, 20, 0, 2, 0, 90])
    iptc += bytes([0x1C, 3, 30, 0, 2, 0, 60, 0x1C, 8, 10, 0x84, 0]) + len(eps).to_bytes(4) + eps
    (tmp_path / "b.jpg").write_bytes(iptc)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("was run"))
    for name in ("a.eps", "b.jpg"):
        with pytest.raises(UnreadableImage, match=f"{name}: not an image, or of a format such as"):
            read_image(tmp_path / name)
    assert {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"} <= set(images.safe_formats())


def test_files_folders_and_globs_are_found_without_duplicates(tmp_path):
    folder = tmp_path / "my photos"
    (folder / "inner").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "inner/c.webp", "notes.txt", "d[1].png"):
        (folder / name).touch()
    found, others, _ = find_images([folder, folder / "b.jpg", f"{folder}/*.jpg"])
    names = [path.relative_to(folder).as_posix() for path in found]
    assert sorted(names) == ["a.PNG", "b.jpg", "d[1].png", "inner/c.webp"]
    assert others == 1
    assert find_images([folder / "d[1].png"]) == ([folder / "d[1].png"], 0, [])
    assert find_images([f"{tmp_path}/**/c.webp"])[0] == [folder / "inner" / "c.webp"]


@pytest.mark.parametrize("name,reason", [("nowhere", "no such file"), ("empty", "no images in")])
def test_a_path_without_images_is_reported(name, reason, tmp_path):
    (tmp_path / "empty").mkdir()
    found, _, errors = find_images([tmp_path / name])
    assert found == []
    assert reason in str(errors[0])


def test_reading_ahead_keeps_the_order_and_continues_after_a_bad_file(tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(7)]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 32), (i, i, i)).save(name)
    names[3].write_bytes(b"")
    batches = list(read_ahead(names, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    values = [
        None if isinstance(image, UnreadableImage) else int(image[0, 0, 0])
        for batch in batches
        for _, image in batch
    ]
    assert values == [0, 1, 2, None, 4, 5, 6]


@pytest.mark.slow
def test_large_deep_and_transparent_images_take_little_memory(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux reports the peak memory")
    paths = []
    for mode in ("I;16", "RGBA"):
        paths.append(tmp_path / f"{mode[:4]}.png")
        Image.new(mode, (3000, 3000)).save(paths[-1])
    code = """
import re, sys
from pathlib import Path
from cifar10.data.images import read_image
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
for path in sys.argv[1:]:
    read_image(path)
print((peak() - before) // 1000)
"""
    output = subprocess.check_output([sys.executable, "-c", code, *paths], text=True)
    assert 9 < int(output) < 9 * 14  # MB, for 9 million pixels


def test_a_deep_image_of_one_column_is_converted_in_one_step(monkeypatch):
    calls = []
    real = np.nan_to_num
    monkeypatch.setattr(np, "nan_to_num", lambda rows: calls.append(1) or real(rows))
    images.to_eight_bits(Image.new("I;16", (1, 100_000)))
    assert len(calls) == 1


def test_hidden_files_are_skipped_and_unreadable_folders_are_reported(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/._1.png", ".b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == ([tmp_path / "a" / "1.png"], 0, [])
    link = tmp_path / "a" / "2.png"
    link.symlink_to(tmp_path / "gone.png")
    assert link in find_images([tmp_path])[0]
    with pytest.raises(UnreadableImage, match=r"2.png: No such file"):
        read_image(link)
    link.unlink()

    real = Path.is_file

    def is_file(path):
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert "Permission denied" in str(find_images([tmp_path])[2][0])


def test_each_path_without_an_image_is_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "1.png").touch()
    paths = [tmp_path / name for name in ("nowhere", "empty", "1.png", 300 * "x")]
    found, _, errors = find_images(paths)
    assert found == [tmp_path / "1.png"]
    assert [str(error).partition(": ")[0] for error in errors] == list(
        map(str, (paths[0], paths[1], paths[3]))
    )
