"""Every form gives the same tensors; corrupted and foreign files are rejected."""

import hashlib
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
from cifar10.data.checksums import BATCH_NAMES, CorruptData
from cifar10.data.download import SourceFailed
from cifar10.data.formats import read_archive, to_binary
from cifar10.data.prepare import PREPARED_FILE, prepare_dataset
from tests.conftest import FORMS


def no_network(*_: object) -> None:
    raise AssertionError("the network was used")


def prepare(folder, forms, fetch=no_network, allow_download=True):
    return prepare_dataset(folder, ["source"], allow_download, forms.checksums, fetch)


def assert_complete(dataset, forms):
    assert torch.equal(dataset.train_images, torch.from_numpy(forms.images[:1000]))
    assert torch.equal(dataset.test_images, torch.from_numpy(forms.images[1000:]))
    assert dataset.train_labels.tolist() == forms.labels[:1000].tolist()
    assert dataset.test_labels.tolist() == forms.labels[1000:].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors_at_the_first_and_later_starts(form, forms, tmp_path):
    path = forms.write(form, tmp_path)
    assert_complete(prepare(tmp_path, forms), forms)
    assert (tmp_path / PREPARED_FILE).read_bytes() == b"".join(forms.binary.values())
    path.rename(tmp_path / "elsewhere")
    assert_complete(prepare(tmp_path, forms), forms)


@pytest.mark.parametrize("name", sorted(FORMS[2:]))
def test_a_downloaded_archive_is_deleted_once_prepared(name, forms, tmp_path):
    def fetch(sources, directory, archives):
        return forms.write(name, directory)

    assert_complete(prepare(tmp_path, forms, fetch), forms)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".prepare.lock", PREPARED_FILE]


@pytest.mark.parametrize("form", FORMS)
@hypothesis_settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_detected(form, forms, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped")
    path = forms.write(form, folder)
    file = data.draw(st.sampled_from(sorted(path.iterdir()))) if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(UserError, match="no source was tried") as error:
        prepare(folder, forms, allow_download=False)
    assert file.name in error.value.details or file.stem in error.value.details
    assert not (folder / PREPARED_FILE).exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_prepared_file_is_rebuilt(damage, forms, tmp_path, caplog):
    forms.write(FORMS[0], tmp_path)
    prepare(tmp_path, forms)
    prepared = tmp_path / PREPARED_FILE
    intact = prepared.read_bytes()
    flipped = intact[:-1] + bytes([intact[-1] ^ 1])
    prepared.write_bytes(
        {"flip": flipped, "cut": intact[:-1], "empty": b"", "longer": intact + b"x"}[damage]
    )
    assert_complete(prepare(tmp_path, forms), forms)
    assert prepared.read_bytes() == intact
    assert caplog.text.count("is corrupted; rebuilding it") == 1


def test_a_damaged_form_is_skipped_for_an_intact_one(forms, tmp_path):
    (forms.write("cifar-10-batches-bin", tmp_path) / "test_batch.bin").unlink()
    forms.write("cifar-10-python.tar.gz", tmp_path)
    assert_complete(prepare(tmp_path, forms), forms)


def test_without_a_working_source_the_error_lists_the_alternatives(forms, tmp_path):
    def fetch(*_: object) -> None:
        raise SourceFailed("one: HTTP 503\ntwo: no connection")

    with pytest.raises(UserError) as failure:
        prepare(tmp_path / "new folder", forms, fetch)
    for part in ("one: HTTP 503", "two: no connection", "cifar-10-binary.tar.gz", "data=sample"):
        assert part in failure.value.details + str(failure.value)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == [".prepare.lock"]


def test_a_foreign_archive_with_an_official_name_is_not_opened(forms, tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(forms.archives["cifar-10-binary.tar.gz"] + b"x")
    monkeypatch.setattr("tarfile.open", no_network)
    with pytest.raises(CorruptData, match="SHA-256"):
        read_archive(path, forms.checksums)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_a_pickle_is_only_loaded_if_it_has_the_published_digest(forms):
    files = forms.pickled | {BATCH_NAMES[3]: pickle.dumps({b"labels": Bomb(), b"data": b""})}
    with pytest.raises(CorruptData, match="data_batch_4 does not have its published MD5"):
        to_binary(files, forms.checksums, "somewhere")


def test_pickles_in_the_official_form_are_read_without_a_warning(forms):
    """Those of Python 2 name `numpy.core`, and have integers for NumPy's booleans."""
    files = {}
    for name, data in forms.pickled.items():
        old = pickle.dumps(pickle.loads(data), protocol=0)
        old = old.replace(b"numpy._core", b"numpy.core").replace(b"I00\n", b"I0\n")
        files[name] = old.replace(b"I01\n", b"I1\n")
    md5 = [hashlib.md5(files[name]).hexdigest() for name in BATCH_NAMES]
    batches = to_binary(files, replace(forms.checksums, md5=md5), "somewhere")
    assert batches == list(forms.binary.values())


def test_a_failure_releases_the_lock(forms, tmp_path):
    errors = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            prepare_dataset(tmp_path, [], False, forms.checksums)
        errors.append(caught.value)  # as a notebook does
    assert "could not be downloaded" in str(errors[1])


def test_of_many_threads_only_one_prepares(forms, tmp_path):
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
    assert_complete(prepare(tmp_path, forms), forms)


def test_a_process_killed_while_preparing_does_not_block_the_next(forms, tmp_path):
    code = (
        "import os, sys; from pathlib import Path;"
        "from cifar10.data.prepare import prepare_dataset;"
        "from cifar10.data.checksums import CIFAR10;"
        "prepare_dataset(Path(sys.argv[1]), [], True, CIFAR10, lambda *_: os._exit(9))"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120)
    assert died.returncode == 9
    forms.write(FORMS[0], tmp_path)
    assert_complete(prepare(tmp_path, forms), forms)


def test_data_in_a_read_only_folder_is_used(forms, tmp_path, monkeypatch):
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("cifar10.core.files.FileLock.acquire", deny)
    with pytest.raises(UserError, match="Read-only file system"):
        prepare(tmp_path, forms)
    forms.write(FORMS[0], tmp_path)
    assert_complete(prepare(tmp_path, forms), forms)
    assert not (tmp_path / PREPARED_FILE).exists()


def test_a_data_folder_that_cannot_be_created_is_an_error(forms, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="is not writable"):
        prepare(tmp_path / "file" / "data", forms)


def test_a_full_disk_leaves_no_partial_file(forms, tmp_path, monkeypatch):
    forms.write(FORMS[0], tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare(tmp_path, forms)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {".prepare.lock", "cifar-10-batches-bin"}
