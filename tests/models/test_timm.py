"""Networks of the timm package."""

import builtins

import pytest
import torch

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import instantiate
from cifar10.training.classifier import Classifier
from tests.processes import run_python


def build(settings, *overrides):
    composed = settings("model=timm", *overrides)
    return Classifier(
        composed["model"],
        composed["optimizer"],
        composed["scheduler"],
        0.0,
        False,
        ["a", "b", "c"],
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=resnet18"],
        ["model.name=vit_tiny_patch16_224", "++model.options={img_size:32,patch_size:4}"],
    ],
)
def test_a_timm_network_trains(settings, overrides):
    classifier = build(settings, *overrides)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    loss = classifier(images).logsumexp(1).sum()
    loss.backward()
    assert classifier(images).shape == (4, 3)
    assert all(p.grad is not None for p in classifier.network.parameters())
    classifier.build_optimizer(total_steps=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=resnt18"], "did you mean resnet18"),
        (["model.name=vit_tiny_patch16_224"], "cannot take images"),
        (["model.name=resnet18", "++model.options={foo:1}"], "foo"),
    ],
)
def test_what_timm_cannot_build_is_reported_in_one_line(settings, overrides, message):
    with pytest.raises(SettingError, match=message) as error:
        build(settings, *overrides)
    assert "\n" not in str(error.value)


def test_a_missing_timm_is_reported_with_how_to_install_it(settings, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingError, match=r"pip install -e '\.\[timm\]'"):
        build(settings, "model.name=resnet18")


@pytest.mark.slow
def test_initial_weights_are_loaded_at_the_start_only(settings, tmp_path, monkeypatch):
    import timm
    from safetensors.torch import save_file

    from cifar10.runs.components import build_components
    from cifar10.runs.load import load
    from cifar10.runs.result import read_result
    from cifar10.runs.run import run

    source = timm.create_model("resnet10t", num_classes=10)
    with torch.no_grad():
        source.fc.bias.fill_(3.0)
    file = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), file)
    options = f"{{pretrained:true,pretrained_cfg_overlay:{{file:{file},num_classes:10}}}}"
    words = ["data=sample", "model=timm", "model.name=resnet10t", f"++model.options={options}"]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "data.batch_size=20"]
    words += ["optimizer=sgd", "optimizer.lr=1e-9", "report=false"]
    chosen = settings(*words)
    run(chosen, tmp_path / "run")
    file.unlink()
    trained = load(tmp_path / "run", "cpu")
    assert trained.network.network.fc.bias.mean().item() == pytest.approx(3.0, abs=1e-3)
    longer = settings(*words, "trainer.max_epochs=2")
    earlier = read_result(tmp_path / "run" / "result.json")
    assert run(longer, tmp_path / "run", earlier=earlier)["epochs"] == 2
    with pytest.raises(SettingError, match="model: cannot load initial weights: "):
        run(chosen, tmp_path / "other", components=build_components(chosen, tmp_path / "other"))


HOSTILE = {
    "a folder to write to": {"pretrained": True, "cache_dir": "."},
    "a URL": {"pretrained": True, "pretrained_cfg": {"url": "http://localhost:9/evil.pth"}},
    "a URL laid over": {
        "pretrained": True,
        "pretrained_cfg_overlay": {"url": "http://localhost:9/"},
    },
    "a repository": {"pretrained_cfg_overlay": {"hf_hub_id": "evil/model"}},
    "a pickle": {"checkpoint_path": "evil.pth"},
    "another function": {"pretrained_filter_fn": "os.system"},
    "features": {"features_only": True},
}
# Loads checkpoints with the network and all files but theirs cut off.
LOAD_ALONE = """
import sys
import tempfile
from pathlib import Path
import timm
import cifar10
from cifar10.core.errors import UserError

tempfile.gettempdir()  # which tries to write there

def cut(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "shutil.")):
        raise SystemExit(f"touched: {event} {arguments}")
    if event == "open" and isinstance(arguments[0], str):
        path, mode, _ = arguments
        known = path.endswith((".ckpt", "result.json", ".py", ".pyc"))
        known |= path.startswith(("/proc", sys.prefix, sys.base_prefix)) or "matplotlib" in path
        if not known or set(mode or "") & set("wax+"):
            raise SystemExit(f"touched: {arguments}")

sys.addaudithook(cut)
for path in sys.argv[1:] or sorted(Path().glob("*.ckpt")):
    try:
        cifar10.load(path)
        print(path.stem, "loaded")
    except UserError as error:
        print(path.stem, "refused:", error)
"""


@pytest.mark.parametrize("case", HOSTILE)
def test_options_that_do_not_shape_the_network_are_refused_by_name(settings, case):
    composed = settings("model=timm", "model.name=resnet10t")
    composed["model"]["options"] = HOSTILE[case]
    name = min(HOSTILE[case].keys() - {"pretrained"})
    with pytest.raises(SettingError, match=rf"model: options\.{name}"):
        instantiate(composed["model"], "model", torch.nn.Module)


@pytest.mark.slow
def test_loading_touches_neither_the_network_nor_other_files(settings, tmp_path):
    classifier = build(settings, "model.name=resnet10t")
    harmless = {
        "pretrained": {"pretrained": True},
        "weights": {"pretrained": True, "pretrained_cfg_overlay": {"file": "gone.safetensors"}},
    }
    for number, options in enumerate([*harmless.values(), *HOSTILE.values()]):
        state = {
            "state_dict": classifier.state_dict(),
            "hyper_parameters": dict(classifier.hparams),
        }
        model = state["hyper_parameters"]["model"]
        state["hyper_parameters"]["model"] = {**model, "options": options}
        torch.save(state, tmp_path / f"{number}.ckpt")
    done = run_python(LOAD_ALONE, tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["0 loaded", "1 loaded"], done.stdout + done.stderr
    assert len(lines) == len(harmless) + len(HOSTILE)
    assert all(" refused: " in line for line in lines[2:])
