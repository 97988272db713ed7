"""A folder of YAML files from a stranger runs no code of theirs."""

import re
import sys

import pytest
import yaml

from tests.processes import run_python

MARK = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
CODE = f"{MARK}class Evil:\n    def __init__(self, *_, **__): pass\ndef run(*_, **__): pass\n"
EVIL = {"_target_": "evil_code.run"}
NOT_TYPED = "in a YAML file, it could run programs"
# Settings of Hydra that build, run, import or write something.
HOSTILE = {
    "a callback": {"callbacks": {"x": EVIL}},
    "a callback of torch": {"callbacks": {"x": {"_target_": "torch.hub.load", "model": "y"}}},
    "an argument of ours": {"callbacks": {"start": {"x": [EVIL]}}},
    "in place of ours": {"callbacks": {"start": {"_target_": "site.addsitedir", "sitedir": "."}}},
    "what ours imports": {
        "callbacks": {"x": {"_target_": "hydra.experimental.callbacks.pickle.loads"}}
    },
    "by interpolation": {"callbacks": "${evil.${oc.select:hydra.job.num,a}}"},
    "a launcher": {"launcher": EVIL},
    "a sweeper": {"sweeper": EVIL},
    "a log factory": {"job_logging": {"handlers": {"x": {"()": "evil_code.Evil"}}}},
    "a log class": {"hydra_logging": {"formatters": {"x": {"class": "evil_code.Evil"}}}},
    "an import": {"job_logging": {"handlers": {"console": {"stream": "ext://evil_code.run"}}}},
    "a startup file": {"job_logging": {"handlers": {"file": {"filename": "evil.pth"}}}},
    "a log format": {"job_logging": {"formatters": {"simple": {"format": "\x1b[2J"}}}},
    "the environment": {"job": {"env_set": {"CIFAR10_TRUST": "evil_code"}}},
    "secrets": {"job": {"env_copy": ["HOME"]}},
    "a forged command line": {
        "overrides": {"task": "${oc.create:[]}", "hydra": ["hydra.job.env_set={A: B}"]},
        "job": {"env_set": {"A": "B"}},
    },
    "a folder with pickles": {"sweep": {"dir": "theirs"}},
    "nothing but a name": {"output_subdir": None},
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Writes a YAML file of theirs; gives the words that use it."""
    (tmp_path / "evil_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_code", raising=False)

    def write(content, group="experiment", name="theirs", package="_global_"):
        file = tmp_path / "their configs" / group / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        header = f"# @package {package}\n" if package else ""
        file.write_text(header + yaml.safe_dump(content, sort_keys=False))
        return ["--config-dir", "their configs", f"{group}={name}"]

    yield write
    assert not (tmp_path / "ran").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil_code.py", "their configs"]


def assert_refused(outcome, message):
    code, stderr = outcome
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert message in stderr


@pytest.mark.parametrize("multirun", [(), ("--multirun",)])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_sets_nothing_of_hydra(case, multirun, stranger, type_in):
    (key, *_), words = HOSTILE[case], stranger({"hydra": HOSTILE[case]})
    assert_refused(type_in(*words, *multirun), f"experiment/theirs.yaml: hydra.{key}")


@pytest.mark.parametrize("package", ["hydra", "hydra.job", "hydra.job.env_set"])
def test_a_file_is_not_placed_in_hydras_settings(package, stranger, type_in):
    assert_refused(type_in(*stranger({"A": "1"}, package=package)), NOT_TYPED)
    stranger({"A": "1"}, "model", "plain", package=None)
    defaults = {"defaults": [{f"/model@{package}": "plain"}]}
    assert_refused(type_in(*stranger(defaults)), NOT_TYPED)


@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm", "own"])
def test_a_file_chooses_no_launcher(launcher, stranger, type_in):
    target = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    stranger({"_target_": target, "srun_args": ["id"]}, "hydra/launcher", "own", "hydra.launcher")
    defaults = {"defaults": [{"override /hydra/launcher": launcher}]}
    assert_refused(type_in(*stranger(defaults), "--multirun"), NOT_TYPED)


def test_a_file_does_not_replace_one_of_ours(stranger, type_in):
    words = stranger({"sweep": {"dir": "theirs"}, "hydra": {}}, ".", "train")[:2]
    assert "seed='wrong'" in type_in(*words, "seed=wrong")[1]  # ours is found first
    assert_refused(type_in(*stranger({"dir": "theirs"}, "sweep", package=None)), "sweep.dir")


@pytest.mark.parametrize("path", ["pkg://evil_code", "structured://evil_code", "x://evil_code"])
def test_a_module_is_not_imported_as_a_search_path(path, stranger, type_in):
    words = stranger({"defaults": ["train"], "hydra": {"searchpath": [path]}}, ".", "own")
    outcome = type_in(*words[:2], "--config-name", "own", "data=sample")
    assert_refused(outcome, f"hydra.searchpath={path}: would import")


@pytest.mark.parametrize(
    "key", ["hydra.job.env_set.A", "++hydra.job.env_set.A", "hydra/launcher", "hydra.searchpath"]
)
def test_a_preset_of_a_sweep_types_nothing_of_hydra(key, stranger, type_in):
    preset = {"defaults": ["default", "_self_"], "params": {key: "[x]", "seed": "0,1"}}
    words = stranger(preset, "sweep", package=None)
    assert_refused(type_in(*words, "--multirun"), "a setting of Hydra; type it instead")


BOMBS = {
    "lists": "a0: &a0 [x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
    "groups": "a0: &a0 {x: 1, y: 2}\n"
    + "".join(
        f"a{i}: &a{i} {{{', '.join(f'k{k}: *a{i - 1}' for k in range(9))}}}\n" for i in range(1, 9)
    ),
    "itself": "a: &a [*a]\n",
}


@pytest.mark.parametrize("case", BOMBS)
def test_aliases_do_not_expand_without_end(case, stranger, type_in, tmp_path):
    words = stranger({})
    (tmp_path / "their configs" / "experiment" / "theirs.yaml").write_text(BOMBS[case])
    assert_refused(type_in(*words), "its aliases expand to more than 10,000 values")


BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@pytest.mark.parametrize(
    "word",
    [
        *("hydra.launcher=null", "hydra.sweeper=null", "hydra.launcher=3", "hydra.sweeper=[1]"),
        *("hydra/sweeper=basic", f"hydra.sweeper._target_={BASIC}"),
        "hydra.launcher._target_=hydra_plugins.cifar10_sweeper.Cifar10Sweeper",
    ],
)
def test_a_typed_launcher_or_sweeper_is_one(word, type_in, monkeypatch):
    assert_refused(type_in(word, "--multirun"), re.split("[=./]", word)[1])


def test_what_is_typed_or_trusted_counts(stranger, type_in, monkeypatch):
    typed = ["+hydra.job.env_set.A=1", "hydra/launcher=submitit_slurm", "hydra.launcher.setup=[a]"]
    assert "seed='wrong'" in type_in(*typed, "seed=wrong")[1]
    words = stranger({"hydra": {"job": {"env_set": {"A": "1"}}}})
    assert_refused(type_in(*words, *typed), NOT_TYPED)
    monkeypatch.setenv("CIFAR10_TRUST", "hydra")
    assert "seed='wrong'" in type_in(*words, "seed=wrong")[1]


@pytest.mark.parametrize(
    "target", ["own_hook.Callback.__init__", "own_hook.os.system", "own_hook.Path"]
)
def test_a_users_own_callback_of_hydra_runs_if_trusted(target, type_in, tmp_path, monkeypatch):
    (tmp_path / "own_hook.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from hydra.experimental.callback import Callback\n"
        "class Hook(Callback):\n"
        "    def on_run_start(self, **_): print('hooked')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["+hydra.callbacks.own._target_=own_hook.Hook", "data=sample", "seed=wrong"]
    assert "CIFAR10_TRUST=tests,own_hook" in type_in(*words)[1]
    monkeypatch.setenv("CIFAR10_TRUST", "own_hook")
    imported = f"+hydra.callbacks.own._target_={target}"
    assert f"hydra.callbacks.own._target_={target}" in type_in(imported, *words[1:])[1]
    assert "seed='wrong'" in type_in(*words)[1]


def test_workers_of_joblib_save_settings_without_passwords(tmp_path):
    lines = ["import cifar10.launch", "from hydra.core.utils import _save_config as save"]
    done = run_python("\n".join([*lines, "print(save.__module__)"]), tmp_path)
    assert done.stdout == "cifar10.core.hydra_guard\n", done.stderr
