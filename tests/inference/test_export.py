"""`cifar10 export`: standalone files that agree with PyTorch."""

import json
from pathlib import Path

import pytest
import torch

import cifar10
from cifar10.data import CLASSES
from cifar10.inference import export


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(export, "CHECK_IMAGES", 20)


@pytest.mark.parametrize("form,name", [("onnx", "net.onnx"), ("torch", "net.pt2")])
@pytest.mark.slow
def test_an_exported_file_agrees_with_pytorch_and_names_its_classes(form, name, cifar, trained):
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    code, out, err = cifar("export", trained, "--to", form, "--out", name)
    assert code == 0, err
    assert "largest difference" in out
    assert out.splitlines()[-1].split() == ["saved", "to", name]
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    model = cifar10.load(trained)
    expected = model(images).softmax(1)
    if form == "onnx":
        session = onnxruntime.InferenceSession(name)
        probabilities = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    else:
        extra = {"classes.json": ""}
        probabilities = torch.export.load(name, extra_files=extra).module()(images)
        classes = json.loads(extra["classes.json"])
    torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)
    assert tuple(classes) == CLASSES
    weights = sum(4 * p.numel() for p in model.parameters())
    assert weights < Path(name).stat().st_size < 1.1 * weights  # no images inside


def test_a_file_that_disagrees_with_pytorch_is_not_saved(cifar, trained, tmp_path, monkeypatch):
    network = export.ExportedClassifier(cifar10.load(trained, "cpu")).eval()

    def write_wrong(_, file, __):
        file.touch()
        return lambda images: network(images) + 2e-4

    monkeypatch.setattr(export, "write_program", write_wrong)
    code, _, err = cifar("export", trained, "--to", "torch", "--out", "net.pt2")
    assert code == 2
    assert err.startswith("error: net.pt2: not saved; its probabilities differ")
    assert not (tmp_path / "net.pt2").exists()


def test_missing_packages_are_named(cifar, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    code, _, err = cifar("export", "convnet", "--to", "onnx")
    assert code == 2
    assert "onnxruntime; install with: pip install -e '.[export]'" in err


def test_an_existing_file_is_not_overwritten(cifar, trained, tmp_path):
    (tmp_path / "net.pt2").write_text("mine")
    code, _, err = cifar("export", trained, "--to", "torch", "--out", "net.pt2")
    assert code == 2
    assert "net.pt2: already exists" in err
    assert (tmp_path / "net.pt2").read_text() == "mine"
