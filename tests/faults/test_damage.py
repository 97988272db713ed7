"""Corrupted files: detected or harmless, never another result."""

import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cifar10.core.errors import UserError
from cifar10.data.prepare import PREPARED_FILE, Dataset, prepare_dataset
from cifar10.data.sample import SAMPLE_FILE, read_sample
from tests.conftest import FORMS
from tests.faults.harness import SMALL, Run, die_after_saves, outcome, same

# A run cannot resume without its settings or its best checkpoint, nor where a directory replaces a
# file that it must write or a link its lock.
NEEDED = ("result.json", "best.ckpt", ".run.lock")
DAMAGES = ("empty", "half", "bit", "random", "directory", "link")


def damage(path, kind, chance) -> None:
    whole = bytearray(path.read_bytes())
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.with_name("nowhere"))
    else:
        if kind == "bit" and whole:
            whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        changed = {"empty": b"", "half": whole[: len(whole) // 2], "bit": whole}
        path.write_bytes(changed.get(kind, chance.randbytes(len(whole))))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    run = Run([*SMALL, f"hydra.run.dir={folder}"], folder.parent, die_after_saves)
    assert run.wait() == -9, run.output
    return folder


def test_a_corrupted_file_of_a_run_is_detected_or_harmless(
    killed, tmp_path, reference, chance, long, survived
):
    expected, _ = reference
    names = sorted(p.relative_to(killed) for p in killed.rglob("*") if p.is_file())
    assert {"result.json", "last.ckpt", "previous.ckpt", "best.ckpt"} <= set(map(str, names))
    trials = [(name, kind) for name in names for kind in DAMAGES]
    for number, (name, kind) in enumerate(trials if long else chance.sample(trials, 6)):
        folder = tmp_path / f"run{number}"
        shutil.copytree(killed, folder)
        damage(folder / name, kind, chance)
        run = Run([*SMALL, f"resume={folder}"], tmp_path)
        code = run.wait()
        what = f"{name} {kind}: exit code {code}\n{run.output}"
        assert "Traceback" not in run.output, what
        if code:
            assert code in (1, 2), what
            assert sum(line.startswith("error: ") for line in run.err.splitlines()) == 1, what
        may_refuse = str(name) in NEEDED or kind == "directory"
        good = same(outcome(folder), expected) if code == 0 else may_refuse
        survived("corrupted run file: detected or harmless", good)
        assert good, what


def same_data(one: Dataset, other: Dataset) -> bool:
    return all(map(torch.equal, one, other))


def test_damage_to_any_data_file_is_detected_or_harmless(forms, tmp_path, sample, chance, survived):
    def check(path: Path, kind: str, whole: Dataset, read: Callable[[], Dataset]) -> None:
        damage(path, kind, chance)
        try:
            good = same_data(read(), whole)
        except UserError as error:
            good = str(path.name) in str(error)
        survived("corrupted data file: detected or harmless", good)
        assert good, (path, kind)

    (tmp_path / "whole").mkdir()
    forms.write("cifar-10-binary.tar.gz", tmp_path / "whole")
    whole = prepare_dataset(tmp_path / "whole", [], False, forms.checksums)
    for form in FORMS:
        written = forms.write(form, tmp_path)
        names = [path.name for path in written.iterdir()] if written.is_dir() else [None]
        for name, kind in itertools.product(names, DAMAGES):
            folder = tmp_path / f"{form} {name} {kind}"
            folder.mkdir()
            path = forms.write(form, folder)
            read = functools.partial(prepare_dataset, folder, [], False, forms.checksums)
            check(path / name if name else path, kind, whole, read)
    for kind in DAMAGES:
        folder = tmp_path / f"prepared {kind}"
        shutil.copytree(tmp_path / "whole", folder)
        read = functools.partial(prepare_dataset, folder, [], False, forms.checksums)
        check(folder / PREPARED_FILE, kind, whole, read)
        bundled = shutil.copy(SAMPLE_FILE, folder / "sample.png")
        check(bundled, kind, sample, functools.partial(read_sample, bundled))
