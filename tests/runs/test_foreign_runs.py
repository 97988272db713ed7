"""A run folder of a stranger: resuming it removes, overwrites and prints nothing that harms."""

import json
import logging
import os
import shutil

import pytest
import torch

from cifar10.core.errors import SettingError, UserError
from cifar10.core.streams import LogFile
from cifar10.runs.checkpoint import AtomicCheckpointIO
from cifar10.runs.components import build_components
from cifar10.runs.result import RESULT_FILE, read_result, repeat_command
from cifar10.runs.resume import resolve_settings, rows_before
from cifar10.runs.run import run
from tests.processes import TINY


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose state is complete."""
    from cifar10.core.settings import compose_settings

    folder = tmp_path_factory.mktemp("whole") / "run"
    run(compose_settings(*TINY), folder, [])
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["folder", "file", "checkpoint", "link"])
def test_only_own_checkpoints_are_removed(kind, copy, tiny, tmp_path, caplog):
    """Lightning removes what a checkpoint names as the second best, a folder with all within."""
    victim = tmp_path / "victim" / "thesis"
    victim.parent.mkdir()
    if kind == "folder":
        victim.mkdir()
        (victim / "text").write_text("precious")
    elif kind == "checkpoint":  # of another run
        torch.save({"state_dict": {}, "run": {"started": "2020"}}, victim)
    elif kind == "link":
        victim.symlink_to(copy / "best.ckpt")
    else:
        victim.write_text("precious")
    for name in ("last.ckpt", "best.ckpt"):
        state = torch.load(copy / name, weights_only=True)
        for key, saved in state["callbacks"].items():
            if key.startswith("ModelCheckpoint"):
                path = f"{saved['dirpath']}/../victim/thesis"
                saved |= {
                    "best_k_models": {path: torch.tensor(99.0)},
                    "kth_best_model_path": path,
                    "kth_value": torch.tensor(99.0),
                }
        torch.save(state, copy / name)
    earlier = read_result(copy / RESULT_FILE)
    run(tiny("trainer.max_epochs=2"), copy, ["trainer.max_epochs=2"], earlier=earlier)
    assert victim.exists()
    assert "thesis is no checkpoint of this run: not removed" in caplog.text


def test_own_checkpoints_are_removed_also_after_a_resume(copy, tmp_path):
    io = AtomicCheckpointIO()
    io.identity = {"started": read_result(copy / RESULT_FILE)["started"]}
    io.remove_checkpoint(copy / "best.ckpt")
    assert not (copy / "best.ckpt").exists()
    io.remove_checkpoint(copy / "best.ckpt")  # gone already


LINKS = [
    *("train.log", "hparams.yaml", "metrics.csv", ".metrics.before.csv", "fit-profile.txt"),
    *("report.html", "figures/curves.png", "csv/version_0/metrics.csv", "anything"),
]


@pytest.mark.parametrize("kind", ["link", "dangling link", "link to a folder", "pipe"])
@pytest.mark.parametrize("name", LINKS)
def test_a_run_with_links_is_not_resumed(name, kind, copy, settings, tmp_path):
    path, victim = copy / name, tmp_path / "victim"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    if kind == "link":
        victim.write_text("precious")
    elif kind == "link to a folder":
        victim.mkdir()
    for resume in (str(copy), "auto"):
        with pytest.raises(SettingError, match="a link or pipe, which a resumed run might write"):
            resolve_settings(settings(), resume, copy, [])


def test_a_log_is_not_appended_to_through_a_link(tmp_path):
    """That of a job of a sweep is opened before the run is looked at."""
    (tmp_path / "bashrc").write_text("precious")
    (tmp_path / "train.log").symlink_to(tmp_path / "bashrc")
    with pytest.raises(OSError, match="symbolic link, which is not followed"):
        LogFile(tmp_path / "train.log")
    assert (tmp_path / "bashrc").read_text() == "precious"


def test_cells_of_a_strangers_metrics_are_no_formulas(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/loss,note\n0,-0.5,=cmd()\n1,1e-3,\n")
    assert rows_before(path, 2) == [
        {"step": "0", "val/loss": "-0.5", "note": "'=cmd()"},
        {"step": "1", "val/loss": "1e-3", "note": ""},
    ]
    path.write_text("step,=cmd()\n0,1\n")
    with pytest.raises(UserError, match="no name of a metric"):
        rows_before(path, 2)


def test_links_that_lightning_makes_are_refused(settings, tmp_path):
    """It removes a file or folder of the link's name itself."""
    typed = "+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, save_last: link}"
    with pytest.raises(SettingError, match="save_last=link: not supported"):
        build_components(settings(typed, f"+callbacks.x.dirpath={tmp_path}"), tmp_path / "run")


@pytest.mark.parametrize(
    "word",
    [
        *("--experimental-rerun=evil.pickle", "-cp=/evil", "--config-dir=evil"),
        *("hydra@x=1", "trainer@hydra.launcher=default", "+hydra/launcher=x", "hydra.run.dir=x"),
        *(" hydra.x=1", '"hydra".x=1', "+{hydra}=1"),
    ],
)
def test_printed_commands_have_no_options_and_nothing_of_hydra(word, copy, cifar):
    path = copy / RESULT_FILE
    result = json.loads(path.read_text())
    result["overrides"] = ["data=sample", word, "optimizer.lr=0.1"]
    path.write_text(json.dumps(result))
    command = repeat_command(read_result(path)).partition("\n")[0]
    assert command == "python train.py data=sample optimizer.lr=0.1"
    code, out, _ = cifar("summarize", "--partial", copy.parent)
    assert code == 0 and "optimizer.lr=0.1" in out and word not in out


def test_a_log_that_is_also_another_file_becomes_a_copy(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    os.link(victim, tmp_path / "train.log")
    log = LogFile(tmp_path / "train.log", encoding="utf-8")
    log.emit(logging.makeLogRecord({"msg": "x"}))
    log.close()
    assert victim.read_text() == "mine\n"
    assert (tmp_path / "train.log").read_text() == "mine\nx\n"
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "train.log"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_override_forges_no_line(count, copy, cifar):
    path = copy / RESULT_FILE
    result = json.loads(path.read_text())
    result["overrides"] = ["a=1" + count * "\npython train.py x #", "b=\x1b[2J\u2028c"]
    path.write_text(json.dumps(result))
    assert repeat_command(read_result(path)).count("\n") == (
        "tests" in str(result["config"]["model"])
    )
    _, out, _ = cifar("summarize", "--partial", copy.parent)
    assert not any(line.lstrip().startswith("python") for line in out.splitlines())
    assert "\x1b" not in out and "\u2028" not in out


def test_figures_of_a_summary_do_not_go_through_a_link(copy, cifar, tmp_path, caplog):
    victim = tmp_path / "victim"
    victim.mkdir()
    runs = tmp_path / "runs"
    runs.mkdir()
    copy.rename(runs / "run")
    (runs / "figures").symlink_to(victim)
    assert cifar("summarize", "--partial", runs)[0] == 0
    assert "figures is a symbolic link, which is not followed" in caplog.text
    assert not list(victim.iterdir())
