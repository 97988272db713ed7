"""Pictures of every kind, and files that are none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.data import images as pictures
from cifar10.data.images import UnreadableImage

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def colours(picture: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The colours near the four corners."""
    places = {"top left": (4, 4), "top right": (4, 27), "bottom left": (27, 4)}
    return {name: tuple(picture[:, y, x].tolist()) for name, (y, x) in places.items()}


def halves(size=(90, 60), left=RED, right=BLUE) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_32x32_pixels_go_through_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(
        pictures.read_image(tmp_path / "a.png").permute(1, 2, 0), torch.tensor(pixels)
    )


@pytest.mark.parametrize(
    "size", [(90, 60), (60, 90), (33, 32), (16, 16), (1, 1), (500, 3), (3000, 2000)]
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_any_size_is_shrunk_to_32(size, suffix, tmp_path):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    picture = pictures.read_image(tmp_path / f"a.{suffix}")
    assert picture.shape == (3, 32, 32)
    assert picture.dtype == torch.uint8
    middle = picture.flatten(1).float().mean(1)
    torch.testing.assert_close(middle, torch.tensor([200.0, 100, 50]), atol=3, rtol=0)


def test_the_middle_is_kept(tmp_path):
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    image.save(tmp_path / "a.png")
    picture = pictures.read_image(tmp_path / "a.png")
    assert set(colours(picture).values()) == {GREEN}


def test_shrinking_is_antialiased(tmp_path):
    """A fine chequered pattern becomes grey, not a coarse one."""
    pixels = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inner = pictures.read_image(tmp_path / "a.png")[:, 2:-2, 2:-2].float()
    assert (inner - 127.5).abs().max() < 10


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "RGBX"])
def test_every_mode_gives_the_colours_it_shows(mode):
    picture = pictures.to_32x32(halves(left=(0, 0, 0), right=WHITE).convert(mode))
    found = colours(picture)
    assert max(found["top left"]) < 8
    assert min(found["top right"]) > 247


@pytest.mark.parametrize("dtype,full", [(np.uint16, 65535), (np.int32, 65535), (np.float32, 1)])
def test_deep_grey_levels_are_scaled(dtype, full, tmp_path):
    levels = np.zeros((64, 64), dtype)
    levels[:, 32:] = full
    Image.fromarray(levels).save(tmp_path / "a.tiff")
    found = colours(pictures.read_image(tmp_path / "a.tiff"))
    assert found["top left"] == (0, 0, 0)
    assert found["top right"] == WHITE


def test_what_is_transparent_is_white(tmp_path):
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "a.png")
    assert set(colours(pictures.read_image(tmp_path / "a.png")).values()) == {WHITE}
    image = halves().convert("P")
    image.save(tmp_path / "b.gif", transparency=image.getpixel((0, 0)))
    assert colours(pictures.read_image(tmp_path / "b.gif"))["top left"] == WHITE


def test_pictures_are_turned_as_the_camera_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image = Image.new("RGB", (64, 64), RED)
    image.paste(BLUE, (0, 32, 64, 64))
    image.save(tmp_path / "a.png", exif=exif)
    found = colours(pictures.read_image(tmp_path / "a.png"))
    assert found["top left"] == BLUE
    assert found["top right"] == RED


def test_an_animation_counts_by_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colours(pictures.read_image(tmp_path / "a.gif"))["top left"] == RED


def test_files_that_are_none_are_told_in_one_line(tmp_path, monkeypatch):
    whole = tmp_path / "whole.png"
    halves((300, 300)).save(whole)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:200])
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000)
    for name, why in {
        "empty.png": "is empty",
        "text.png": "is no picture",
        "whole.png": "has 300x300 pixels, more than 10,000",
        "half.png": "",
        "missing.png": "No such file",
        ".": "is no file",
    }.items():
        monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000 if name == "whole.png" else 10**6)
        with pytest.raises(UnreadableImage) as error:
            pictures.read_image(tmp_path / name)
        assert why in str(error.value)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_files_folders_and_globs_are_found_once(tmp_path):
    folder = tmp_path / "my photos"
    (folder / "inner").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "inner/c.webp", "notes.txt", "d[1].png"):
        (folder / name).touch()
    found, others, _ = pictures.find_images([folder, folder / "b.jpg", f"{folder}/*.jpg"])
    names = [path.relative_to(folder).as_posix() for path in found]
    assert sorted(names) == ["a.PNG", "b.jpg", "d[1].png", "inner/c.webp"]
    assert others == 1
    assert pictures.find_images([folder / "d[1].png"]) == ([folder / "d[1].png"], 0, [])
    assert pictures.find_images([f"{tmp_path}/**/c.webp"])[0] == [folder / "inner" / "c.webp"]


@pytest.mark.parametrize("place,why", [("nowhere", "no such file"), ("empty", "no picture in")])
def test_a_place_without_pictures_is_refused(place, why, tmp_path):
    (tmp_path / "empty").mkdir()
    found, _, faults = pictures.find_images([tmp_path / place])
    assert found == []
    assert why in str(faults[0])


def test_reading_ahead_keeps_the_order_and_goes_on_after_a_bad_file(tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(7)]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 32), (i, i, i)).save(name)
    names[3].write_bytes(b"")
    batches = list(pictures.read_ahead(names, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    values = [
        None if isinstance(picture, UnreadableImage) else int(picture[0, 0, 0])
        for batch in batches
        for _, picture in batch
    ]
    assert values == [0, 1, 2, None, 4, 5, 6]


def test_large_deep_and_transparent_pictures_take_little_memory(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process of its peak")
    paths = []
    for mode in ("I;16", "RGBA"):
        paths.append(tmp_path / f"{mode[:4]}.png")
        Image.new(mode, (3000, 3000)).save(paths[-1])
    code = """
import re, sys
from pathlib import Path
from cifar10.data import images as pictures
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
for path in sys.argv[1:]:
    pictures.read(path)
print((peak() - before) // 1000)
"""
    said = subprocess.check_output([sys.executable, "-c", code, *paths], text=True)
    assert 9 < int(said) < 9 * 14  # MB: bytes for each of 9 million pixels


def test_a_deep_picture_of_one_column_is_as_quick_as_another(monkeypatch):
    calls = []
    real = pictures.np.nan_to_num
    monkeypatch.setattr(pictures.np, "nan_to_num", lambda rows: calls.append(1) or real(rows))
    pictures.eight_bits(Image.new("I;16", (1, 100_000)))
    assert len(calls) == 1


def test_folders_are_searched_but_for_what_is_hidden_and_those_locked_are_named(
    tmp_path, monkeypatch
):
    for name in ("a/1.png", "a/._1.png", ".b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert pictures.find_images([tmp_path]) == ([tmp_path / "a" / "1.png"], 0, [])
    link = tmp_path / "a" / "2.png"
    link.symlink_to(tmp_path / "gone.png")
    assert link in pictures.find_images([tmp_path])[0]
    with pytest.raises(UnreadableImage, match=r"2.png: cannot be read"):
        pictures.read_image(link)
    link.unlink()

    real = Path.is_file

    def is_file(path):
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert "Permission denied" in str(pictures.find_images([tmp_path])[2][0])


def test_each_place_that_gives_no_picture_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "1.png").touch()
    places = [tmp_path / name for name in ("nowhere", "empty", "1.png", 300 * "x")]
    found, _, faults = pictures.find_images(places)
    assert found == [tmp_path / "1.png"]
    assert [str(fault).partition(": ")[0] for fault in faults] == list(
        map(str, (places[0], places[1], places[3]))
    )
