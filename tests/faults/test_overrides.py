"""Random invalid settings: one line each, before anything is written."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cifar10.core.settings import CONFIGS
from tests.faults.test_damage import damage

NUMBERS = ("data.batch_size", "data.val_size", "trainer.max_epochs", "optimizer.lr", "seed")
RANGED = ("data.batch_size", "data.val_size", "trainer.max_epochs", "seed", "data.shift")
GROUPS = ("data", "model", "optimizer", "scheduler", "trainer", "logger", "experiment")
words = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=12).map(lambda w: f"q{w}q")
BAD = st.one_of(
    st.builds("{}={}".format, words, st.integers()),
    st.builds("{}.{}={}".format, st.sampled_from(GROUPS[:5]), words, st.integers()),
    st.builds("{}={}".format, st.sampled_from(GROUPS), words),
    st.builds("{}={}".format, st.sampled_from(NUMBERS), words),
    st.builds("{}=[{}]".format, st.sampled_from(NUMBERS), st.integers(0, 9)),
    st.builds("{}={}".format, st.sampled_from(RANGED), st.integers(-(10**6), -1)),
    st.builds("{}=nan".format, st.sampled_from(RANGED)),
    st.builds("model._target_={}.{}".format, words, words),
    st.builds("optimizer._target_=os.{}".format, words),
    st.builds("{}={}".format, words, st.sampled_from(["[", "{", "${", '"', "'", "(1"])),
    st.builds("~{}".format, words),
    st.builds("resume={}".format, words),
    st.builds("trainer.precision={}".format, words),
    st.builds("data.sizes={}".format, st.sampled_from(["[24]", "{0:32}", "{1:7}", "{1:a}", "32"])),
)


def test_an_invalid_override_is_one_line_and_writes_nothing(
    type_in, tmp_path, long, request, survived
):
    @seed(request.config.getoption("--fault-seed"))
    @settings(
        max_examples=200 if long else 20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(BAD)
    def try_one(override: str) -> None:
        code, stderr = type_in(override)
        good = (
            code == 2
            and stderr.startswith("error: ")
            and stderr.count("\n") == 1
            and not list(tmp_path.iterdir())
        )
        survived("invalid override: one line, exit code 2, nothing written", good)
        assert good, (override, code, stderr)

    try_one()


@pytest.mark.parametrize("kind", ["random", "directory", "link", "colon"])
def test_a_corrupted_yaml_file_is_one_line_and_writes_nothing(
    kind, type_in, tmp_path, chance, long, survived
):
    files = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    for file in files if long else chance.sample(files, 2):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(CONFIGS, Path(folder, "configs"))
            if kind == "colon":
                (copy / file).write_text("a: b: c\n")
            else:
                damage(copy / file, kind, chance)
            group = [f"{file.parent}={file.stem}"] if file.parent.name else []
            code, stderr = type_in(f"--config-path={copy}", *group)
        good = code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1
        good = good and not list(tmp_path.iterdir())
        survived("corrupted YAML file: one line, exit code 2, nothing written", good)
        assert good, (file, code, stderr)
