"""Checkpoint files: whole or not there, and what becomes of damaged ones."""

import errno
import os

import pytest
import torch

from cifar10.core.errors import UserError
from cifar10.runs import checkpoint
from cifar10.runs.checkpoint import AtomicCheckpointIO

STATE = {
    "state_dict": {"weight": torch.arange(1000.0)},
    "global_step": 3,
    "callbacks": {},
    **{key: [] for key in ("optimizer_states", "lr_schedulers", "loops")},
}


def write(path, step=3):
    AtomicCheckpointIO().save_checkpoint(STATE | {"global_step": step}, path)
    return path


def test_what_is_written_is_read(tmp_path):
    read = checkpoint.read_checkpoint(write(tmp_path / "last.ckpt"))
    assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])


def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path, monkeypatch):
    path = write(tmp_path / "last.ckpt")
    before = path.read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"last.ckpt cannot be written: No space left"):
        write(path, step=9)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_every_flipped_bit_is_seen_or_changes_nothing(tmp_path):
    path = write(tmp_path / "last.ckpt")
    whole = path.read_bytes()
    seen = 0
    places = range(0, len(whole), 97)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read = checkpoint.read_checkpoint(path)
        except UserError:
            seen += 1
            continue
        assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])
        assert read["global_step"] == 3
    assert seen > len(places) / 2


def test_torch_itself_does_not_see_a_flipped_bit(tmp_path):
    """If it ever does, `read` may do without looking."""
    path = write(tmp_path / "last.ckpt")
    whole = bytearray(path.read_bytes())
    place = whole.index(torch.arange(500.0, 510.0).numpy().tobytes())
    whole[place] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path)["state_dict"]["weight"], STATE["state_dict"]["weight"])
    with pytest.raises(UserError, match=r"another checksum|Bad CRC"):
        checkpoint.read_checkpoint(path)


def damage(path, how):
    whole = path.read_bytes()
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "dangling link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2]}[how])


@pytest.mark.parametrize("how", ["empty", "half", "directory", "dangling link"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(how, tmp_path, caplog):
    write(tmp_path / "previous.ckpt", step=2)
    damage(write(tmp_path / "last.ckpt", step=4), how)
    assert checkpoint.find_resumable(tmp_path) == (tmp_path / "previous.ckpt", 2)
    assert len(caplog.messages) == 1
    assert "last.ckpt is no whole checkpoint" in caplog.text
    assert "going on from previous.ckpt instead" in caplog.text


def test_none_yet_and_none_whole_are_told_apart(tmp_path):
    assert checkpoint.find_resumable(tmp_path) is None
    damage(write(tmp_path / "last.ckpt"), "half")
    with pytest.raises(UserError, match="there is no other to go on from"):
        checkpoint.find_resumable(tmp_path)


def test_weights_alone_cannot_be_trained_on(tmp_path):
    AtomicCheckpointIO().save_checkpoint(
        {"state_dict": {}, "callbacks": {}}, tmp_path / "last.ckpt"
    )
    with pytest.raises(UserError, match="holds weights alone: it lacks optimizer_states"):
        checkpoint.find_resumable(tmp_path)


def test_a_moved_runs_own_files_are_found_and_a_callbacks_own_folder_stays(tmp_path):
    here, elsewhere = str(tmp_path / "before"), str(tmp_path / "elsewhere")

    def state(folder):
        best = f"{folder}/best.ckpt"
        paths = dict(best_model_path=best, last_model_path="", kth_best_model_path=best)
        return {"dirpath": folder, "best_k_models": {best: 0.5}, **paths}

    callbacks = {"LastCheckpoint": state(here), "Best": state(here), "Other": state(elsewhere)}
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE | {"callbacks": callbacks}, path)
    moved = checkpoint.read_checkpoint(path)["callbacks"]
    assert moved["Other"] == state(elsewhere)
    assert moved["Best"] == state(str(tmp_path.resolve()))
