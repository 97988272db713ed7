"""Checkpoint files: saved completely or not at all; corrupt ones are detected."""

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


def test_a_saved_checkpoint_can_be_loaded(tmp_path):
    read = checkpoint.read_checkpoint(write(tmp_path / "last.ckpt"))
    assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])


def test_a_full_disk_keeps_the_old_file_and_is_one_error(tmp_path, monkeypatch):
    path = write(tmp_path / "last.ckpt")
    before = path.read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"last.ckpt: cannot be saved: No space left"):
        write(path, step=9)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_flipped_bit_is_detected_or_harmless(tmp_path):
    path = write(tmp_path / "last.ckpt")
    whole = path.read_bytes()
    detected = 0
    positions = range(0, len(whole), 97)
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            read = checkpoint.read_checkpoint(path)
        except UserError:
            detected += 1
            continue
        assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])
        assert read["global_step"] == 3
    assert detected > len(positions) / 2


def test_torch_itself_does_not_detect_a_flipped_bit(tmp_path):
    """If it ever does, `read_checkpoint` need not verify checksums."""
    path = write(tmp_path / "last.ckpt")
    whole = bytearray(path.read_bytes())
    position = whole.index(torch.arange(500.0, 510.0).numpy().tobytes())
    whole[position] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path)["state_dict"]["weight"], STATE["state_dict"]["weight"])
    with pytest.raises(UserError, match=r"wrong checksum|Bad CRC"):
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
def test_a_corrupt_last_checkpoint_is_replaced_by_the_previous_one(how, tmp_path, caplog):
    write(tmp_path / "previous.ckpt", step=2)
    damage(write(tmp_path / "last.ckpt", step=4), how)
    path, state = checkpoint.find_resumable(tmp_path)
    assert (path.name, state["global_step"]) == ("previous.ckpt", 2)
    assert len(caplog.messages) == 1
    assert "last.ckpt: not a valid checkpoint" in caplog.text
    assert "resuming from previous.ckpt instead" in caplog.text


def test_no_checkpoint_yet_differs_from_no_valid_one(tmp_path):
    assert checkpoint.find_resumable(tmp_path) is None
    damage(write(tmp_path / "last.ckpt"), "half")
    with pytest.raises(UserError, match="there is no other checkpoint to resume from"):
        checkpoint.find_resumable(tmp_path)


def test_a_file_of_weights_alone_cannot_be_resumed(tmp_path):
    AtomicCheckpointIO().save_checkpoint(
        {"state_dict": {}, "callbacks": {}}, tmp_path / "last.ckpt"
    )
    with pytest.raises(UserError, match="holds only weights; it lacks optimizer_states"):
        checkpoint.find_resumable(tmp_path)


def test_paths_in_a_moved_run_follow_it_but_not_those_of_other_folders(tmp_path):
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
