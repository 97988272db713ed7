"""Settings of version 0.1: the committed ones, and those that need a conversion."""

import importlib
import json

import pytest

from cifar10.core.errors import SettingError
from cifar10.core.instantiate import import_class
from cifar10.core.legacy import (
    ADDED,
    MOVED,
    sizes_by_epoch,
    upgrade_config,
    upgrade_hyperparameters,
    upgrade_settings,
)
from cifar10.core.settings import ROOT, restore_keys
from cifar10.runs.components import hyperparameters

OLD = {
    "data": {"_target_": "cifar10.data.folder.FolderDataModule", "crops": [32], "sizes": [24, 32]},
    "model": {"_target_": "cifar10.models.from_timm.FromTimm"},
    "optimizer": {"_target_": "cifar10.optim.Muon"},
    "scheduler": {"_target_": "cifar10.optim.Cosine"},
    "callbacks": {
        "last": {"_target_": "cifar10.last.LastCheckpoint"},
        "gallery": {"_target_": "cifar10.gallery.Gallery"},
    },
    "keep_hardest": [1.0],
}
NEW = {
    "data": {"_target_": "cifar10.data.image_folder.FolderDataModule", "sizes": {1: 24, 2: 32}},
    "model": {"_target_": "cifar10.models.timm.FromTimm"},
    "optimizer": {"_target_": "cifar10.training.muon.Muon"},
    "scheduler": {"_target_": "cifar10.training.schedules.Cosine"},
    "callbacks": {"last": {"_target_": "cifar10.runs.last_checkpoint.LastCheckpoint"}},
    "report": True,
}


def test_old_settings_become_todays_and_todays_stay():
    assert upgrade_config(OLD) == NEW
    assert upgrade_config(NEW) == NEW
    assert upgrade_config(restore_keys(json.loads(json.dumps(NEW)))) == NEW
    assert upgrade_config(OLD | {"callbacks": None})["report"] is False


@pytest.mark.parametrize("change", [{"keep_hardest": [1.0, 0.5]}, {"data": {"crops": [28, 32]}}])
def test_a_removed_setting_that_was_in_use_is_rejected(change):
    with pytest.raises(SettingError, match=r"=\[.*\]: removed in version 0\.2"):
        upgrade_config(OLD | change)


@pytest.mark.parametrize("name", MOVED.values())
def test_todays_class_names_exist(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([32], None),
        (None, None),
        ([24, 24, 24, 28, 32], {1: 24, 4: 28, 5: 32}),
        ([32, 32, 24], {3: 24}),
        ([24] * 12 + [28] * 7 + [32], {1: 24, 13: 28, 20: 32}),
    ],
)
def test_a_list_of_sizes_becomes_the_epochs_that_change_it(old, new):
    assert sizes_by_epoch(old) == new


def test_only_neutral_flat_settings_are_removed():
    old = {"seed": 0, "keep_hardest": "[1.0]", "data.crops": "[32]", "data.sizes": "[24, 32]"}
    assert upgrade_settings(old) == {"seed": 0, "data.sizes": "{1: 24, 2: 32}"}
    assert upgrade_settings({"data.sizes": "[32]"}) == {"data.sizes": "None"}
    used = {"keep_hardest": "[1.0, 0.5]", "data.sizes": "{1: 24}"}
    assert upgrade_settings(used) == used


def test_settings_added_later_have_the_value_that_is_recorded_by_default(settings):
    recorded = hyperparameters(settings())
    assert {key: recorded[key] for key in ADDED} == ADDED


def test_committed_model_cards_name_todays_classes():
    for file in (ROOT / "cifar10" / "zoo").glob("*.json"):
        card = json.loads(file.read_text(encoding="utf-8"))
        upgraded = upgrade_hyperparameters(card["hyper_parameters"])
        assert "keep_hardest" not in upgraded
        for part in ("model", "optimizer", "scheduler"):
            assert import_class(upgraded[part]["_target_"], part, object)


def test_a_run_that_used_a_removed_setting_can_be_evaluated_but_not_resumed():
    config = {"keep_hardest": [0.5], "data": {"crops": [28]}}
    assert upgrade_config(config, to_resume=False)["data"] == {}
    with pytest.raises(SettingError, match=r"removed in version 0\.2"):
        upgrade_config(config)
