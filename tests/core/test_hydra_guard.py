"""A folder of YAML files from a stranger runs no code of theirs."""

import sys

import pytest
import yaml

from cifar10.core.hydra_guard import FILE_NAME
from tests.processes import run_python

MARK = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
CODE = f"{MARK}class Evil:\n    def __init__(self, *_, **__): pass\ndef run(*_, **__): pass\n"
EVIL = {"_target_": "evil_code.run"}
# Settings of Hydra, and what the error names.
HOSTILE = {
    "a callback": ({"callbacks": {"x": EVIL}}, "hydra.callbacks.x._target_"),
    "a callback of torch": (
        {"callbacks": {"x": {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"}}},
        "hydra.callbacks.x._target_=torch.hub.load",
    ),
    "an argument of ours": ({"callbacks": {"start": {"x": EVIL}}}, "hydra.callbacks.start.x"),
    "in a list": ({"callbacks": {"start": {"x": [EVIL]}}}, "hydra.callbacks.start.x.0"),
    "elsewhere": (
        {"callbacks": {"x": "${hydra.job.env_set}"}, "job": {"env_set": EVIL}},
        "hydra.callbacks.x._target_",
    ),
    "in place of ours": (
        {"callbacks": {"start": {"_target_": "site.addsitedir", "sitedir": "."}}},
        "hydra.callbacks.start._target_=site.addsitedir",
    ),
    "what ours imports": (
        {"callbacks": {"x": {"_target_": "hydra.experimental.callbacks.pickle.loads"}}},
        "hydra.callbacks.x._target_=hydra.experimental.callbacks.pickle.loads",
    ),
    "another class later": (
        {
            "callbacks": {"x": {"_target_": "${hydra.job.env_set.${oc.select:hydra.job.num,a}}"}},
            "job": {"env_set": {"a": "cifar10.launch.StartHook", "0": "evil_code.run"}},
        },
        "hydra.callbacks.x._target_: write the value itself",
    ),
    "a launcher": ({"launcher": EVIL}, "hydra.launcher._target_"),
    "a sweeper": ({"sweeper": EVIL}, "hydra.sweeper._target_"),
    "a log factory": (
        {"job_logging": {"handlers": {"x": {"()": "evil_code.Evil"}}}},
        "hydra.job_logging.handlers.x.()",
    ),
    "a log class": (
        {"job_logging": {"formatters": {"x": {"class": "evil_code.Evil"}}}},
        "hydra.job_logging.formatters.x.class",
    ),
    "a log of Hydra": (
        {"hydra_logging": {"handlers": {"x": {"class": "evil_code.Evil"}}}},
        "hydra.hydra_logging.handlers.x.class",
    ),
    "a filter": (
        {"job_logging": {"filters": {"x": {"()": "evil_code.run"}}}},
        "hydra.job_logging.filters.x.()",
    ),
    "a log sent away": (
        {"job_logging": {"handlers": {"x": {"class": "logging.handlers.HTTPHandler"}}}},
        "hydra.job_logging.handlers.x.class",
    ),
    "an import": (
        {"job_logging": {"handlers": {"console": {"stream": "ext://evil_code.run"}}}},
        "hydra.job_logging.handlers.console.stream",
    ),
    "a later import": (
        {"job_logging": {"handlers": {"console": {"stream": "${hydra.runtime.output_dir}"}}}},
        "hydra.job_logging.handlers.console.stream",
    ),
    "a startup file": (
        {"job_logging": {"handlers": {"file": {"filename": "evil.pth"}}}},
        "hydra.job_logging.handlers.file.filename=evil.pth: must start with a name or",
    ),
    "a property": (
        {"job_logging": {"handlers": {"file": {".": {"baseFilename": "evil.pth"}}}}},
        "hydra.job_logging.handlers.file..",
    ),
    "an attribute": (
        {"job_logging": {"formatters": {"simple": {"style": "{"}}}},
        "hydra.job_logging.formatters.simple.style",
    ),
    "another part of the logging": (
        {"job_logging": {"handlers": {"console": {"level": "cfg://formatters.x"}}}},
        "hydra.job_logging.handlers.console.level=cfg://",
    ),
    "a forged command line": (
        {"overrides": {"hydra": ["hydra.job.env_set={A: B}"]}, "job": {"env_set": {"A": "B"}}},
        "hydra.overrides: is a record of the command line",
    ),
    "the environment": ({"job": {"env_set": {"CIFAR10_TRUST": "evil_code"}}}, "hydra.job.env_set"),
    "secrets": ({"job": {"env_copy": ["HOME"]}}, "hydra.job.env_copy"),
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Writes settings of Hydra as their file; gives the words that use it."""
    (tmp_path / "evil_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_code", raising=False)

    def write(hydra, group="experiment", name="theirs", **settings):
        file = tmp_path / "their configs" / group / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**settings, "hydra": hydra})
        file.write_text(f"# @package _global_\n{text}")
        return ["--config-dir", "their configs", f"{group}={name}"]

    yield write
    assert not (tmp_path / "ran").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil_code.py", "their configs"]


@pytest.mark.parametrize("case", HOSTILE)
def test_what_hydra_would_build_from_a_file_is_refused_first(case, stranger, type_in):
    hydra, message = HOSTILE[case]
    multirun = ["--multirun"] if case in ("a callback", "a launcher", "a sweeper") else []
    code, stderr = type_in(*stranger(hydra), *multirun, "seed=0")
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert message in stderr


@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
@pytest.mark.parametrize("setup", [["touch ran"], "${oc.decode:null}"])
def test_commands_of_a_launcher_are_typed_or_trusted(
    launcher, setup, stranger, type_in, monkeypatch
):
    words = stranger({"launcher": {"setup": setup}})
    code, stderr = type_in(*words, f"hydra/launcher={launcher}", "--multirun", "seed=wrong")
    if launcher == "submitit_slurm":  # the other has no such setting
        assert (code, "hydra.launcher.setup: in a YAML file" in stderr) == (2, True)
        monkeypatch.setenv("CIFAR10_TRUST", "hydra")
        assert (
            "hydra.launcher.setup"
            not in type_in(*words, "hydra/launcher=submitit_slurm", "seed=wrong")[1]
        )


def test_what_a_file_adds_to_a_typed_environment_is_refused(stranger, type_in):
    words = stranger({"job": {"env_set": {"A": "1"}}})
    typed = ("+hydra.job.env_set.B=2", "+hydra.job.env_set={A: 1}", "hydra.job.env_set.A=1")
    for word, is_refused in zip(typed, (True, False, False), strict=True):
        code, stderr = type_in(*words, word, "seed=wrong")
        assert (code, "hydra.job.env_set: in a YAML file" in stderr) == (2, is_refused), stderr


def test_jobs_of_joblib_save_settings_without_passwords(tmp_path):
    lines = ["import cifar10.launch", "from hydra.core.utils import _save_config as save"]
    done = run_python("\n".join([*lines, "print(save.__module__)"]), tmp_path)
    assert done.stdout == "cifar10.core.hydra_guard\n", done.stderr


@pytest.mark.parametrize("key", ["partition", "name", "submitit_folder", "comment"])
def test_a_launchers_settings_add_no_line_to_the_script_of_a_job(key, stranger, type_in):
    words = stranger({"launcher": {key: "x'\ntouch ran\n#"}})
    code, stderr = type_in(*words, "hydra/launcher=submitit_slurm", "--multirun", "seed=wrong")
    assert (code, f"hydra.launcher.{key}: must be a single line" in stderr) == (2, True), stderr


def test_a_module_is_not_imported_as_a_search_path(stranger, type_in, tmp_path):
    words = stranger({"searchpath": ["pkg://evil_code"]}, ".", "own", defaults=["train"])
    code, stderr = type_in(*words[:2], "--config-name", "own", "data=sample")
    assert (code, "hydra.searchpath=pkg://evil_code: would import" in stderr) == (2, True)


def test_a_users_own_callback_of_hydra_runs_if_trusted(type_in, tmp_path, monkeypatch):
    (tmp_path / "own_hook.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Hook(Callback):\n"
        "    def on_run_start(self, **_): print('hooked')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["+hydra.callbacks.own._target_=own_hook.Hook", "data=sample", "seed=wrong"]
    assert "CIFAR10_TRUST=tests,own_hook" in type_in(*words)[1]
    monkeypatch.setenv("CIFAR10_TRUST", "own_hook")
    imported = "+hydra.callbacks.own._target_=own_hook.Callback.__init__"
    assert "hydra.callbacks.own._target_=own_hook" in type_in(imported, *words[1:])[1]
    assert "seed='wrong'" in type_in(*words)[1]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("${hydra.runtime.output_dir}/${hydra.job.name}.log", True),
        ("hydra-${hydra.job.name}.log", True),
        ("/var/log/train.log", True),
        ("ext://evil.x.log", False),
        ("e${x}.log", False),
        ("${x}.log", False),
        ("train.log.pth", False),
    ],
)
def test_a_log_file_is_named_so_that_logging_imports_nothing(name, allowed):
    assert bool(FILE_NAME.fullmatch(name)) == allowed
