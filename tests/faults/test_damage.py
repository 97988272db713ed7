"""Files that were damaged: seen, or of no consequence; never another result."""

import shutil

import pytest

from tests.faults.harness import SMALL, Run, die_after_saves, outcome, same

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
def broken_off(tmp_path_factory):
    """The folder of a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("broken off") / "run"
    run = Run([*SMALL, f"hydra.run.dir={folder}"], folder.with_suffix(".log"), die_after_saves)
    assert run.wait() == -9, run.said
    return folder


def test_every_file_of_a_run_damaged_in_turn(
    broken_off, tmp_path, reference, chance, long, survived
):
    expected, _ = reference
    names = sorted(p.relative_to(broken_off) for p in broken_off.rglob("*") if p.is_file())
    assert {"result.json", "last.ckpt", "previous.ckpt", "best.ckpt"} <= set(map(str, names))
    trials = [(name, kind) for name in names for kind in DAMAGES]
    for number, (name, kind) in enumerate(trials if long else chance.sample(trials, 6)):
        folder = tmp_path / f"run{number}"
        shutil.copytree(broken_off, folder)
        damage(folder / name, kind, chance)
        run = Run([*SMALL, f"resume={folder}"], tmp_path / f"{number}.log")
        code = run.wait()
        what = f"{name} {kind}: exit code {code}\n{run.said}"
        assert "Traceback" not in run.said, what
        if code:
            assert code in (1, 2), what
            assert sum(line.startswith("error: ") for line in run.said.splitlines()) == 1, what
        good = code != 0 or same(outcome(folder), expected)
        survived("file of a run damaged: seen or of no consequence", good)
        assert good, what
