"""Settings flattened to dotted keys and quoted for the command line."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cifar10.core.settings import (
    compose_settings,
    flatten,
    quote_override,
    safe_filename,
    unflatten,
)


def test_nested_settings_become_dotted_keys_and_back():
    nested = {"a": 1, "data": {"sizes": {1: 24, 13: 32}, "list": [1]}, "logger": {}, "x": {"y": {}}}
    flat = {"a": 1, "data.sizes": {1: 24, 13: 32}, "data.list": [1], "logger": {}, "x.y": {}}
    assert flatten(nested) == flat
    assert unflatten(flat) == nested
    assert unflatten({"a": None, "a.b": 1}) == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["a/b-c.d", "a b", 'say "hi"', "back\\slash\\", "ü=1", "${x}"])
def test_a_quoted_value_is_read_back_unchanged(text):
    override = OverridesParser.create().parse_override(f"key={quote_override(text)}")
    assert override.value() == text


def test_a_file_name_is_the_text_itself_or_a_readable_part_and_a_digest():
    assert safe_filename("lr=0.1") == "lr-0.1-" + safe_filename("lr=0.1")[-8:]
    assert safe_filename("plain,name+1.2_x") == "plain,name+1.2_x"
    assert safe_filename("a/b") != safe_filename("a:b")
    assert len(safe_filename("x" * 300)) == 100


def test_typed_image_sizes_replace_those_of_an_experiment():
    settings = compose_settings("experiment=airnet_best", "data.sizes={1:20,10:32}")
    assert settings["data"]["sizes"] == {1: 20, 10: 32}  # Hydra would keep epochs 13 and 20
