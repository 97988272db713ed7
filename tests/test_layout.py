"""The layout of the package: which folder may import which, and how long a file may be."""

import re

import pytest

from cifar10.core.settings import ROOT

# Each folder may import itself and the rows above its own, never another folder of its row.
LAYERS = (
    ("core",),
    ("data", "models"),
    ("training",),
    ("reports", "zoo"),
    ("runs",),
    ("inference", "sweeps"),
    ("launch",),
    ("train",),
    ("cli",),
)
IMPORT = re.compile(r"^ *(?:from|import) cifar10(?:\.(\w+))?(?: import (\w+))?", re.MULTILINE)


@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=lambda n: "+".join(LAYERS[n]))
def test_a_folder_imports_only_itself_and_the_layers_before_it(layer):
    allowed = {name for names in LAYERS[:layer] for name in names}
    for name in LAYERS[layer]:
        place = ROOT / "cifar10" / name
        files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            imported = {a or b for a, b in IMPORT.findall(file.read_text(encoding="utf-8"))}
            assert imported <= allowed | {name}, file


def test_every_module_is_in_a_folder_of_the_layout():
    loose = {path.stem for path in (ROOT / "cifar10").glob("*.py")} - {"__init__"}
    assert loose == {"cli", "launch", "train"}


def test_no_file_is_above_250_lines():
    for folder in ("cifar10", "hydra_plugins", "tools", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 250, file
