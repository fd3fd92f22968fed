import os

import numpy as np
import pytest

from iwae_tf.errors import UserError
from iwae_tf.runs import checkpoints

SHAPES = {"weights/000": (2, 3), "step": ()}


def _save(folder, step):
    checkpoints.save(folder, step, {"weights/000": np.full((2, 3), step, np.float32), "step": np.int64(step)})


@pytest.fixture
def folder(tmp_path):
    """A folder in which four checkpoints were saved."""
    for step in (9, 10, 11, 100):
        _save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def test_only_the_last_three_are_kept(folder):
    assert checkpoints.steps(folder) == [10, 11, 100]
    assert len(list(folder.iterdir())) == 3


def test_the_last_one_is_read_exactly(folder):
    arrays = checkpoints.read_last(folder, SHAPES)
    assert arrays["step"] == 100
    np.testing.assert_array_equal(arrays["weights/000"], np.full((2, 3), 100.0))


def test_a_folder_without_checkpoints_reads_as_none(tmp_path):
    assert checkpoints.steps(tmp_path / "nothing") == []
    assert checkpoints.read_last(tmp_path / "nothing", SHAPES) is None
    (tmp_path / "ckpt-1.index").touch()
    assert checkpoints.read_last(tmp_path, SHAPES) is None


def test_a_pipe_or_a_folder_in_place_of_the_last_checkpoint_is_damage(folder, capsys):
    for step, make in ((200, os.mkfifo), (300, os.mkdir)):
        make(folder / f"ckpt-{step}.npz")
    assert checkpoints.read_last(folder, SHAPES)["step"] == 100
    notes = capsys.readouterr().err.splitlines()
    assert [note.split()[-5:] for note in notes] == [["damaged;", "trying", "the", "previous", "one"]] * 2


def _cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def _empty(path):
    path.write_bytes(b"")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 140] ^= 1  # A bit of a number: the check sum no longer matches.
    path.write_bytes(content)


def _of_another_model(path):
    np.savez(path, **{"weights/000": np.zeros((3, 2), np.float32), "step": 1})


def _hold_objects(path):
    np.savez(path, **{"weights/000": np.array([[print] * 3] * 2, object), "step": 1})


def _hold_text(path):
    np.savez(path, **{"weights/000": np.array([["a"] * 3] * 2), "step": 1})


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _of_another_model, _hold_objects, _hold_text])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(folder, damage, capsys):
    damage(checkpoints.path(folder, 100))
    assert checkpoints.read_last(folder, SHAPES)["step"] == 11
    assert "ckpt-100.npz is " in capsys.readouterr().err
    damage(checkpoints.path(folder, 11))
    assert checkpoints.read_last(folder, SHAPES)["step"] == 10
    damage(checkpoints.path(folder, 10))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="No checkpoint in .* can be read .*overwrite the run"):
        checkpoints.read_last(folder, SHAPES)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_after_an_older_checkpoint_keeps_it(folder):
    """Later checkpoints are damaged then, and are not counted among the last three."""
    _save(folder, 12)
    assert checkpoints.steps(folder) == [10, 11, 12]


def test_a_failed_write_leaves_the_earlier_checkpoints(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        _save(folder, 101)
    assert checkpoints.steps(folder) == [10, 11, 100]
    assert len(list(folder.iterdir())) == 3
