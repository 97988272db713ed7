"""README, RESULTS and docs: links, commands, code and tables are correct."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import typer
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from PIL import Image
from torch import nn
from typer.core import TyperGroup

from benchmarks import tables
from cifar10 import cli
from cifar10.core.instantiate import instantiate
from cifar10.core.settings import CONFIGS, ROOT, flatten
from cifar10.runs.components import build_components
from cifar10.runs.resume import with_model

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cifar10/zoo/*.md")]
TEXT = {path: path.read_text(encoding="utf-8") for path in sorted(PAGES)}
README = TEXT[ROOT / "README.md"]
GUIDES = "".join(text for path, text in TEXT.items() if path.name != "CHANGELOG.md")
NOTEBOOK = ROOT / "notebooks" / "cifar10.ipynb"
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def code_blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(start: str, text: str) -> list[str]:
    """The lines of all shell blocks that start with a word, each once."""
    lines = [line for block in code_blocks("sh", text) for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith(start)))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def assert_link_leads_somewhere(link: str, folders: list[Path]) -> None:
    name, _, anchor = link.partition("#")
    targets = [folder / name for folder in folders if (folder / name).exists()]
    assert targets, f"{link}: no such file"
    if anchor:
        assert anchor in anchors(targets[0].read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.parametrize("page", TEXT, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if not link.startswith("http"):
            name = link if not link.startswith("#") else page.name + link
            assert_link_leads_somewhere(name, [page.parent])


def test_links_of_the_notebook_lead_to_files_and_headings():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    prose = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)\s#][^)\s]*)\)", prose):
        if not link.startswith(("http", "attachment:")):
            assert_link_leads_somewhere(link, [NOTEBOOK.parent])


def test_files_and_headings_that_the_configs_mention_exist():
    for file in sorted(CONFIGS.rglob("*.yaml")):
        for comment in re.findall(r"(?:^|\s)# ?(.*)$", file.read_text("utf-8"), re.MULTILINE):
            comment = re.sub(r"https?://\S+", "", comment)
            for link in re.findall(r"[\w./-]+\.(?:md|py|ya?ml|ipynb)\b(?:#[\w-]+)?", comment):
                assert_link_leads_somewhere(link, [ROOT, file.parent])
            for heading in re.findall(r'README, "(.+?)"', comment):
                assert_link_leads_somewhere(f"README.md#{heading.replace(' ', '-')}", [ROOT])


def test_the_readme_has_at_most_200_lines():
    assert len(README.splitlines()) <= 200


def test_continuous_integration_runs_the_readmes_commands():
    assert "pip install -e . && python train.py" in commands("pip", README)
    test = 'pip install -e ".[test]" && pytest'
    assert test in commands("pip", README)
    assert test in CI.splitlines()
    assert re.search(r"^python train\.py trainer\.max_epochs=1 ", CI, re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert f"## {project['version']}\n" in TEXT[ROOT / "CHANGELOG.md"]


def test_the_readmes_layout_names_every_folder():
    layout = code_blocks("", README.partition("## Layout")[2])[0]
    listed = re.findall(r"[\w/.]+/(?=,? )", layout)
    assert all((ROOT / folder).is_dir() for folder in listed)
    modules = {f"cifar10/{file.parent.name}/" for file in ROOT.glob("cifar10/*/*.py")}
    assert modules == {folder for folder in listed if folder.startswith("cifar10/")}


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_match_the_committed_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(tables.BLOCK.findall(text)) == text.count(tables.START) > 0
    assert tables.renewed(text) == text


@pytest.fixture(scope="module")
def folder_with_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for number in range(80):
        path = folder / "my photos" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 50 + number).convert("RGB").save(path)
    Image.new("RGB", (300, 200)).save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("command", commands("python train.py ", GUIDES))
def test_settings_in_commands_build_a_run(command, settings, folder_with_photos, monkeypatch):
    monkeypatch.chdir(folder_with_photos)
    words = [word for word in shlex.split(command, comments=True)[2:] if word[0] != "-"]
    chosen = list(map(first_value, words))
    build_components(with_model(settings(*chosen), chosen), folder_with_photos)


def first_value(word: str) -> str:
    """An override with the first value of its sweep."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    values = override.value()
    start = values.start if isinstance(values, IntervalSweep) else next(override.sweep_iterator())
    return f"{override.get_key_element()}={start}"


def test_settings_in_the_text_exist():
    known = set()
    for file in CONFIGS.rglob("*.yaml"):
        group = file.relative_to(CONFIGS).parent.as_posix()
        keys = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
        prefix = "" if group in (".", "experiment") else f"{group}."
        known |= {f"{prefix}{key}" for key in keys}
    elsewhere = re.compile(r"^```.*?^```|<!-- python.*?<!-- end", re.DOTALL | re.MULTILINE)
    prose = elsewhere.sub("", GUIDES)
    found = set(re.findall(r"(?<=[` ])([a-z][\w.]*)=([\w./+:@-]+)(?=[` ])", prose))
    assert ("data.val_size", "0") in found
    for key, value in found:
        chooses_file = (CONFIGS / key / f"{value}.yaml").exists()
        assert chooses_file or key in known or key.startswith("hydra."), f"{key}={value}"


@pytest.mark.parametrize("command", commands("cifar10 ", GUIDES))
def test_commands_of_the_program_parse(command):
    program = typer.main.get_command(cli.app)
    words = shlex.split(command, comments=True)[1:]
    context = program.make_context("cifar10", words[:1], resilient_parsing=True)
    while isinstance(program, TyperGroup):
        name, program, words = program.resolve_command(context, words)
    program.make_context(name, words)


FASTER = {  # less data, and less of it
    "CIFAR10DataModule()": "CIFAR10DataModule('sample')",
    "L.Trainer(": "L.Trainer(limit_train_batches=2, limit_predict_batches=1, accelerator='cpu', ",
    "max_epochs=4": "max_epochs=1",
}


@pytest.mark.filterwarnings("ignore:.*:lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*bottleneck", "ignore:.*litlogger", "ignore:.*validation_step")
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/python.md"], ids=lambda p: p.name
)
def test_python_in_the_pages_runs(page, folder_with_photos, monkeypatch):
    monkeypatch.chdir(folder_with_photos)
    for block in code_blocks("python", TEXT[page]):
        for slow, fast in FASTER.items():
            block = block.replace(slow, fast)
        names: dict = {}
        exec(block, names)
        if "model" in names and "probabilities" in names:
            assert names["probabilities"].shape[1] == 10


def test_the_example_of_a_custom_network_works(tmp_path, monkeypatch):
    page = TEXT[ROOT / "CONTRIBUTING.md"]
    (tmp_path / "mynet.py").write_text(code_blocks("python", page)[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "mynet")
    network = instantiate(
        yaml.safe_load(code_blocks("yaml", page)[0]), "model", nn.Module, num_classes=10
    )
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_example_of_a_custom_transform_works(tmp_path, monkeypatch, settings):
    page = TEXT[ROOT / "docs/data.md"]
    (tmp_path / "mytransform.py").write_text(code_blocks("python", page)[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIFAR10_TRUST", "mytransform")
    _, *words = shlex.split(commands("CIFAR10_TRUST=mytransform", page)[0])[1:]
    data = build_components(settings(*words[1:], "data=sample"), tmp_path).data
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    plain = data.images(data.train_indices)
    is_plain = [bool((image == plain).all((1, 2, 3)).any()) for image in images]
    assert 0 < sum(is_plain) < len(images)
