"""Digests of the user's own source files."""

import importlib
import sys

import pytest

from cifar10.core.own_code import is_own, read_module, source_digests

FILES = {
    "pack_of_mine/__init__.py": "",
    "pack_of_mine/net.py": "from . import blocks\nfrom pack_of_mine.init import start\n",
    "pack_of_mine/blocks.py": "import helper_of_mine\n",
    "pack_of_mine/init.py": "def start():\n    import late_of_mine\n",
    "helper_of_mine.py": "import torch\nVALUE = 1\n",
    "late_of_mine.py": "VALUE = 1\n",
    "transforms_of_mine.py": "class Shift: ...\n",
    "unrelated_of_mine.py": "VALUE = 1\n",
}
SETTINGS = {
    "model": {"_target_": "pack_of_mine.net.Net", "depth": 3},
    "data": {"transform": [{"_target_": "transforms_of_mine.Shift"}]},
    "optimizer": {"_target_": "torch.optim.SGD"},
}


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """Digests of the files, one of them changed and all imported anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def compute(changed=None, text=""):
        for name, content in FILES.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + content if name == changed else content)
        importlib.invalidate_caches()
        for name in FILES:
            module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            monkeypatch.delitem(sys.modules, module, raising=False)
        read_module.cache_clear()
        return source_digests(SETTINGS)

    return compute


@pytest.mark.parametrize("file", FILES)
def test_a_change_of_any_file_that_bears_on_the_run_changes_its_digests(file, digests):
    before = digests()
    changed = digests(file, "OTHER = 2\n")
    assert (changed != before) == (file != "unrelated_of_mine.py")
    assert digests(file, "# a comment\n\n") == before


def test_digests_do_not_depend_on_what_is_imported_or_edited_meanwhile(digests, tmp_path):
    before = digests()
    importlib.import_module("late_of_mine")
    (tmp_path / "pack_of_mine" / "net.py").write_text("class Net:\n    edited = True\n")
    assert source_digests(SETTINGS) == before


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    from .blocks import x\nexcept ImportError:\n    x = 1\n",
        "if True\n",
        "import __main__, no_such_module_of_mine\n",
    ],
)
def test_any_file_has_a_digest(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_of_mine.py").write_text(text)
    read_module.cache_clear()
    assert set(source_digests({"_target_": "odd_of_mine.X"})) == {"odd_of_mine"}


def test_only_own_files_have_digests(digests):
    assert set(digests()) == {
        *(f"pack_of_mine{part}" for part in ("", ".net", ".blocks", ".init")),
        *("helper_of_mine", "late_of_mine", "transforms_of_mine"),
    }


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("/home/me/net.py", True),
        ("/home/me/.local/lib/python3.12/site-packages/timm/layers.py", False),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", False),
        (sys.modules["json"].__file__, False),
        (sys.modules["cifar10"].__file__, False),
        ("<string>", False),
    ],
)
def test_installed_packages_are_not_the_users_code(file, own):
    assert is_own(file) == own
