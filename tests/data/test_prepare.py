"""Every form gives the same tensors; nothing damaged, and nothing that runs code, gets in."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cifar10.core.errors import UserError
from cifar10.data import prepare as archive
from cifar10.data.checksums import BATCH_NAMES, CorruptData
from cifar10.data.download import SourceFailed
from cifar10.data.formats import BatchUnpickler, read_archive, to_binary
from tests.conftest import FORMS


def no_network(*_: object) -> None:
    raise AssertionError("a source was asked")


def prepare(folder, forms, fetch=no_network, allow_download=True):
    return archive.prepare_dataset(folder, ["source"], allow_download, forms.edition, fetch)


def assert_whole(dataset, forms):
    assert torch.equal(dataset.train_images, torch.from_numpy(forms.images[:1000]))
    assert torch.equal(dataset.test_images, torch.from_numpy(forms.images[1000:]))
    assert dataset.train_labels.tolist() == forms.labels[:1000].tolist()
    assert dataset.test_labels.tolist() == forms.labels[1000:].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors_then_and_at_later_starts(form, forms, tmp_path):
    path = forms.write(form, tmp_path)
    assert_whole(prepare(tmp_path, forms), forms)
    assert (tmp_path / archive.PREPARED_FILE).read_bytes() == b"".join(forms.binary.values())
    path.rename(tmp_path / "elsewhere")
    assert_whole(prepare(tmp_path, forms), forms)


@pytest.mark.parametrize("name", sorted(FORMS[2:]))
def test_a_fetched_archive_is_prepared_and_not_kept(name, forms, tmp_path):
    def fetch(sources, directory, archives):
        return forms.write(name, directory)

    assert_whole(prepare(tmp_path, forms, fetch), forms)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".prepare.lock", archive.PREPARED_FILE]


@pytest.mark.parametrize("form", FORMS)
@hypothesis_settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(form, forms, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped")
    path = forms.write(form, folder)
    file = data.draw(st.sampled_from(sorted(path.iterdir()))) if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(UserError, match="so no source was tried") as refusal:
        prepare(folder, forms, allow_download=False)
    assert file.name in str(refusal.value) or file.stem in str(refusal.value)
    assert not (folder / archive.PREPARED_FILE).exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_prepared_file_is_noticed_and_built_again(damage, forms, tmp_path, caplog):
    forms.write(FORMS[0], tmp_path)
    prepare(tmp_path, forms)
    prepared = tmp_path / archive.PREPARED_FILE
    whole = prepared.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    prepared.write_bytes(
        {"flip": flipped, "cut": whole[:-1], "empty": b"", "longer": whole + b"x"}[damage]
    )
    assert_whole(prepare(tmp_path, forms), forms)
    assert prepared.read_bytes() == whole
    assert caplog.text.count("is damaged; building it again") == 1


def test_a_damaged_form_is_passed_over_for_a_whole_one(forms, tmp_path):
    (forms.write("cifar-10-batches-bin", tmp_path) / "test_batch.bin").unlink()
    forms.write("cifar-10-python.tar.gz", tmp_path)
    assert_whole(prepare(tmp_path, forms), forms)


def test_when_nothing_works_the_message_names_sources_archives_and_the_sample(forms, tmp_path):
    def fetch(*_: object) -> None:
        raise SourceFailed("one: HTTP 503\ntwo: too slow")

    with pytest.raises(UserError) as failure:
        prepare(tmp_path / "new folder", forms, fetch)
    for part in ("one: HTTP 503", "two: too slow", "cifar-10-binary.tar.gz", "data=sample"):
        assert part in str(failure.value)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == [".prepare.lock"]


def test_a_foreign_archive_under_an_official_name_is_not_even_opened(forms, tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(forms.archives["cifar-10-binary.tar.gz"] + b"x")
    monkeypatch.setattr("tarfile.open", no_network)
    with pytest.raises(CorruptData, match="SHA-256"):
        read_archive(path, forms.edition)


class Bomb:
    def __reduce__(self):
        return os.system, ("echo boom",)


def test_a_pickle_that_would_run_code_is_refused_even_with_the_right_digest(forms):
    bomb = pickle.dumps({b"labels": Bomb(), b"data": b""})
    edition = replace(forms.edition, md5=[hashlib.md5(bomb).hexdigest()] * 6)
    with pytest.raises(CorruptData, match="does not belong in a batch"):
        to_binary(dict.fromkeys(BATCH_NAMES, bomb), edition, "somewhere")


@pytest.mark.parametrize("name", ["numpy.load", "numpy.f2py.compile", "builtins.eval", "os.system"])
def test_the_unpickler_admits_no_function(name):
    module, _, function = name.rpartition(".")
    code = f"c{module}\n{function}\n(tR.".encode()
    with pytest.raises(pickle.UnpicklingError):
        BatchUnpickler(io.BytesIO(code)).load()


def test_a_failure_lets_go_of_the_lock(forms, tmp_path):
    kept = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            archive.prepare_dataset(tmp_path, [], False, forms.edition)
        kept.append(caught.value)  # as a notebook keeps it
    assert "could not be fetched" in str(kept[1])


def test_many_threads_prepare_once(forms, tmp_path):
    calls = []

    def fetch(sources, directory, archives):
        calls.append(1)
        return forms.write(FORMS[2], directory)

    threads = [threading.Thread(target=prepare, args=(tmp_path, forms, fetch)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert_whole(prepare(tmp_path, forms), forms)


def test_a_process_that_dies_while_preparing_leaves_nothing_that_blocks_the_next(forms, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from cifar10.data import prepare as archive;"
        "from cifar10.data.checksums import CIFAR10;"
        "archive.prepare_dataset(Path(sys.argv[1]), [], True, CIFAR10, lambda *_: os._exit(9))"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120)
    assert died.returncode == 9
    forms.write(FORMS[0], tmp_path)
    assert_whole(prepare(tmp_path, forms), forms)


def test_a_read_only_folder_serves_what_it_holds(forms, tmp_path, monkeypatch):
    def refuse(_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(archive, "acquire_lock", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        prepare(tmp_path, forms)
    forms.write(FORMS[0], tmp_path)
    assert_whole(prepare(tmp_path, forms), forms)
    assert not (tmp_path / archive.PREPARED_FILE).exists()


def test_a_data_folder_that_cannot_be_made_ends_in_a_clear_line(forms, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare(tmp_path / "file" / "data", forms)


def test_a_full_disk_leaves_no_half_file(forms, tmp_path, monkeypatch):
    forms.write(FORMS[0], tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare(tmp_path, forms)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {".prepare.lock", "cifar-10-batches-bin"}
