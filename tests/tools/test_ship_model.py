"""The committed cards of the pretrained models."""

import pytest

from cifar10 import zoo
from cifar10.core.settings import ROOT
from tools.model_table import table
from tools.ship_model import markdown_card


@pytest.mark.parametrize("name", zoo.pretrained_names())
def test_a_markdown_card_shows_its_json_card(name):
    text = (zoo.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text == markdown_card(name, zoo.model_card(name))


def test_the_readmes_table_lists_every_pretrained_model():
    rows = table(ROOT / "cifar10" / "zoo").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == zoo.pretrained_names()
