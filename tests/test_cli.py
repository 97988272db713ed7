"""The command `cifar10` as a person types it."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cifar10
import cifar10.data.images
from cifar10.data import CLASSES
from cifar10.runs import result as results


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(3):
        pixels = chance.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_pictures_are_answered_in_a_table_in_json_and_in_csv(cifar, photos, trained):
    paths = [str(photos / f"{number}.png") for number in range(3)]
    pictures = torch.stack([cifar10.data.images.read(path) for path in paths])
    expected = cifar10.load(trained).predict(pictures)
    best = [CLASSES[place] for place in expected.argmax(1)]

    code, out, err = cifar("predict", photos, "-m", trained, "--json", "--top", 10)
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["path"] for row in rows] == paths
    assert [row["predictions"][0]["class"] for row in rows] == best
    for row, chances in zip(rows, expected, strict=True):
        given = {p["class"]: p["probability"] for p in row["predictions"]}
        assert list(given.values()) == sorted(given.values(), reverse=True)
        for name, chance in zip(CLASSES, chances.tolist(), strict=True):
            assert given[name] == pytest.approx(chance, abs=2e-3)

    code, out, _ = cifar("predict", *paths, "-m", trained / "best.ckpt", "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["class"] for row in rows if row["rank"] == "1"] == best
    assert len(rows) == 6

    code, out, _ = cifar("predict", f"{photos}/*.png", "-m", trained, "--top", 1)
    lines = out.splitlines()
    assert lines[::2] == paths
    assert [line.split()[0] for line in lines[1::2]] == best


def test_bad_files_are_named_and_the_others_answered(cifar, photos, trained):
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").touch()
    code, out, err = cifar("predict", photos, "-m", trained, "--json")
    assert code == 1
    assert len(json.loads(out)) == 3
    assert err.splitlines() == [
        f"error: {photos}/empty.jpg: is empty",
        "files of other kinds passed over: 1",
        "1 of 4 files gave no picture",
    ]


def test_a_path_that_is_missing_leaves_the_others_answered(cifar, photos, trained):
    there = sorted(photos.iterdir())[0]
    code, out, err = cifar("predict", "nowhere.jpg", there, "-m", trained, "--json")
    assert code == 1
    assert [row["path"] for row in json.loads(out)] == [str(there)]
    assert err == "error: nowhere.jpg: there is no such file or folder\n"
    code, out, err = cifar("predict", "nowhere.jpg", "", "-m", trained)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "nowhere.jpg" in err and "empty path" in err


def test_evaluate_prints_and_writes_the_digits_of_the_run(cifar, trained, tmp_path):
    code, out, _ = cifar("evaluate", trained, "--views", "--out", tmp_path / "there")
    assert code == 0
    expected = results.read_result(trained / results.RESULT_FILE)["test"]
    written = json.loads((tmp_path / "there" / "evaluation.json").read_text())
    assert {key: written[key] for key in expected} == expected
    shown = dict(line.rsplit(maxsplit=1) for line in out.splitlines())
    assert shown["top-1"] == f"{expected['top1']:.2%}"
    rows = [line.split()[1:] for line in out.splitlines() if line.startswith(f"  {CLASSES[3]} ")]
    assert rows[1] == [str(count) for count in written["confusion"][3]]
    assert shown["top-1, mirrored"] == f"{written['mirrored']['top1']:.2%}"
    pictures = {path.stem for path in (tmp_path / "there").glob("*.png")}
    assert pictures == {"confusion", "per_class", "reliability", "mistakes"}


@pytest.mark.parametrize("form,name", [("onnx", "net.onnx"), ("torch", "net.pt2")])
def test_an_export_answers_as_pytorch_does_and_knows_its_classes(form, name, cifar, trained):
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    code, out, err = cifar("export", trained, "--to", form, "--out", name)
    assert code == 0, err
    assert "largest difference" in out
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    model = cifar10.load(trained)
    expected = model(images).softmax(1)
    if form == "onnx":
        session = onnxruntime.InferenceSession(name)
        answer = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    else:
        extra = {"classes.json": ""}
        answer = torch.export.load(name, extra_files=extra).module()(images)
        names = json.loads(extra["classes.json"])
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)
    assert tuple(names) == CLASSES
    weights = sum(4 * p.numel() for p in model.parameters())
    assert weights < Path(name).stat().st_size < 1.1 * weights  # and no images


def test_an_export_that_answers_otherwise_is_not_put_in_place(
    cifar, trained, tmp_path, monkeypatch
):
    from cifar10.inference import export

    opened = export.open_program

    def wrong(file):
        answer = opened(file)
        return lambda images: answer(images) + 2e-4

    monkeypatch.setattr(export, "open_program", wrong)
    code, _, err = cifar("export", trained, "--to", "torch", "--out", "net.pt2")
    assert code == 2
    assert err.startswith("error: net.pt2 was not written: its probabilities differ")
    assert not (tmp_path / "net.pt2").exists()


def test_a_missing_exporter_is_named(cifar, trained, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, _, err = cifar("export", trained, "--to", "onnx")
    assert code == 2
    assert "onnxruntime must be installed: pip install -e '.[export]'" in err


@pytest.mark.parametrize(
    "words,why",
    [
        (["predict", "-m", "x"], "Missing argument"),
        (["evaluate", "airnett"], "did you mean airnet?"),
        (["predict", "", "-m", "x"], "an empty path"),
        (["predict", "~nosuchuser/x.png", "-m", "x"], "there is no such file"),
        (["evaluate", ""], "'': there is no such model"),
        (["predict", "nowhere.png", "-m", "x"], "nowhere.png: there is no such file or folder"),
        (["predict", ".", "-m", "x"], ".: there is no picture in this folder"),
        (["predict", "a.png", "--top", "0"], "greater than or equal to 1"),
        (["predict", "a.png", "-m", "x", "--json", "--csv"], "choose one"),
        (["evaluate", "nowhere"], "nowhere: there is no such model, run or checkpoint"),
        (["evaluate", "."], ".: there is no checkpoint in this folder"),
        (["evaluate", "x", "--split", "train"], "train"),
        (["export", "x", "--to", "caffe"], "caffe"),
        (["data", "verify"], "is not there"),
        (["evaluat"], "No such command"),
        (["predict", "--modle", "x"], "No such option"),
    ],
)
def test_what_was_typed_wrongly_ends_in_one_line_and_2(words, why, cifar, monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_DATA_DIR", str(tmp_path / "data"))
    code, _, err = cifar(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert why in err


def test_the_prepared_data_is_found_and_verified(cifar, monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_DATA_DIR", str(tmp_path / "my data"))
    code, out, _ = cifar("data", "where")
    assert (code, out) == (0, f"{tmp_path / 'my data' / 'cifar-10.bin'}\n")
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "cifar-10.bin").write_bytes(b"half")
    code, _, err = cifar("data", "verify")
    assert code == 2
    assert "is damaged" in err


def test_help_does_without_torch(tmp_path):
    code = """
import sys
from cifar10 import cli
sys.argv = ["cifar10", "predict", "--help"]
try:
    cli.main()
except SystemExit:
    pass
assert not {"torch", "lightning", "PIL", "matplotlib"} & set(sys.modules)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert shown.returncode == 0, shown.stderr
    assert "--model" in shown.stdout


def test_a_checkpoint_without_its_run_is_scored_on_no_guessed_validation_set(
    cifar, trained, tmp_path
):
    alone = shutil.copy(trained / "best.ckpt", tmp_path / "alone.ckpt")
    code, _, err = cifar("evaluate", alone, "--split", "val")
    assert code == 2
    assert "which says what was held out" in err
    assert not list(tmp_path.glob("evaluation*"))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_broken_network_is_not_taken_at_its_word(command, cifar, photos, trained, tmp_path):
    broken = shutil.copytree(trained, tmp_path / "broken")
    state = torch.load(broken / "best.ckpt")
    name = next(key for key in reversed(state["state_dict"]) if key.endswith("weight"))
    state["state_dict"][name] *= math.nan
    torch.save(state, broken / "best.ckpt")
    words = [photos, "-m", broken] if command == "predict" else [broken]
    code, _, err = cifar(command, *words)
    assert code == 2
    assert err == "error: the network returns NaN or infinity: its weights are broken\n"


def test_what_is_there_is_not_exported_over(cifar, trained, tmp_path):
    (tmp_path / "net.pt2").write_text("mine")
    code, _, err = cifar("export", trained, "--to", "torch", "--out", "net.pt2")
    assert code == 2
    assert "net.pt2 is there already" in err
    assert (tmp_path / "net.pt2").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for_and_a_name_is_not_obeyed(cifar, trained, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "red\x1b[31m.png").touch()
    code, _, err = cifar("predict", *sorted(tmp_path.glob("*.png")), "-m", trained)
    assert code == 1
    assert "pipe.png: is no file" in err
    assert "red\\x1b[31m.png: is empty" in err


@pytest.mark.parametrize(
    "damage", [{"config": None}, {"config": {"data": 3}}, {"precision": "x"}, {"checkpoint": 5}]
)
def test_a_damaged_record_of_a_run_is_one_line(damage, cifar, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text()) | damage
    (copy / "result.json").write_text(json.dumps(result))
    code, _, err = cifar("evaluate", copy)
    if damage == {"checkpoint": 5}:  # then its best one is taken
        assert code == 0
    else:
        assert code == 2
        assert err.startswith(f"error: {copy}/result.json is no result.json")
        assert err.count("\n") == 1
