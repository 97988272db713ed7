"""npm as a source of the archive."""

import stat
from pathlib import Path

import pytest

from cifar10.data.download import SourceFailed, download
from tests.data.test_download import ARCHIVES, BODY, NAME


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """An `npm` on the path that packs the archive, or fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    body = tmp_path / "body"
    body.write_bytes(BODY)
    npm = folder / "npm"
    npm.write_text(
        f'#!/bin/sh\ncase "$2" in\n  broken@*) echo "no such package" >&2; exit 1;;\n'
        f'  *) cp "{body}" "$6/package-1.0.tgz"; pwd > "{tmp_path}/where";;\nesac\n'
    )
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    target = tmp_path / "target"
    target.mkdir()
    return target


def test_npm_packs_the_archive(fake_npm):
    (fake_npm / "package-1.0.tgz.part").symlink_to(fake_npm.parent / "body")
    path = download(["npm:broken@1", "npm:package@1.0"], fake_npm, ARCHIVES)
    assert not path.is_symlink()
    assert path.read_bytes() == BODY
    assert [p.name for p in fake_npm.iterdir()] == [NAME]
    # npm would read the settings of a project in or above its folder.
    where = Path((fake_npm.parent / "where").read_text().strip())
    assert not where.is_relative_to(fake_npm) and not where.exists()


@pytest.mark.parametrize(
    "package", ["git+https://x.org/y.git@1", "./x", "a@b/c", "x.tgz", "x@1 -g"]
)
def test_npm_is_given_no_repositories_files_and_options(package, fake_npm):
    with pytest.raises(SourceFailed, match="must be npm:NAME@VERSION"):
        download([f"npm:{package}"], fake_npm, ARCHIVES)
    assert not (fake_npm.parent / "where").exists()


def test_a_missing_or_failing_npm_is_reported_in_one_line(fake_npm, monkeypatch):
    with pytest.raises(SourceFailed, match="npm:broken@1: npm pack failed: no such package"):
        download(["npm:broken@1"], fake_npm, ARCHIVES)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(SourceFailed, match="npm:x@1: npm is not installed"):
        download(["npm:x@1"], fake_npm, ARCHIVES)
