import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from iwae_tf import runs
from iwae_tf.errors import UserError
from iwae_tf.runtime import files

FLAGS = {"k": "5", "stages": "3"}
RESULTS = {
    "nll": {"mean": 90.5, "stderr": None, "num_samples": 5000, "num_images": 1},
    "elbo": -92.0,
    "iwae_bound": {"k": 5, "mean": -91},
    "active_units": {"per_layer": [25]},
    "data": {"binarization": "stochastic"},
    "training": {"epochs": 3, "seconds": 1.5},
    "flags": {},
    "versions": {},
}


@pytest.fixture
def run(tmp_path):
    run = runs.RunDirectory(tmp_path / "deep" / "run")
    run.claim(FLAGS)
    run.checkpoints.mkdir()
    return run


def test_claiming_writes_a_flagfile_and_may_be_repeated(run):
    assert run.flags.read_text() == "--k=5\n--stages=3\n"
    run.claim(FLAGS)
    assert run.read_flags() == FLAGS


def test_other_flags_are_refused_with_the_differences(run):
    with pytest.raises(UserError, match=r"other flags \(--k=5 there, 6 here\)"):
        run.claim({**FLAGS, "k": "6"})
    assert run.read_flags() == FLAGS


def test_before_anything_is_trained_the_flags_may_change(run):
    run.checkpoints.rmdir()
    run.claim({**FLAGS, "k": "6"})
    assert run.read_flags()["k"] == "6"


def test_stages_may_grow_but_not_shrink(run):
    run.claim({**FLAGS, "stages": "4"})
    assert run.read_flags()["stages"] == "4"
    with pytest.raises(UserError, match="--stages=4 there, 3 here"):
        run.claim(FLAGS)


DATA = {"image_shape": [3, 4], "sha256": "0123"}


def test_other_images_are_refused_once_something_is_trained(run):
    run.claim(FLAGS, data=DATA)
    run.claim(FLAGS, data={**DATA, "sha256": "4567"})
    assert run.read_data()["sha256"] == "4567"
    (run.checkpoints / "ckpt-1.npz").touch()
    run.claim(FLAGS, data={**DATA, "sha256": "4567"})
    with pytest.raises(UserError, match=r"trained on other images \(sha256 4567 there, 0123 here\)"):
        run.claim(FLAGS, data=DATA)
    assert run.read_data()["sha256"] == "4567"
    run.data.write_text("damaged")
    run.claim(FLAGS, overwrite=True, data=DATA)
    assert run.read_data() == DATA


def test_what_the_images_are_has_to_be_on_record(run):
    with pytest.raises(UserError, match="has no data.json"):
        run.read_data()
    for damaged in ("{}", '{"image_shape": null}', '{"image_shape": [0, 3]}', "[]"):
        run.data.write_text(damaged)
        with pytest.raises(UserError, match="Cannot read .*data.json"):
            run.read_data()


def test_the_folder_of_the_data_may_move(run):
    run.claim({**FLAGS, "data_dir": "here"})
    run.claim({**FLAGS, "data_dir": "there"})
    assert run.read_flags()["data_dir"] == "there"


def test_overwriting_removes_the_run_and_nothing_else(run):
    run.write_results(RESULTS)
    run.figures.mkdir()
    (run.path / "notes.txt").write_text("mine")
    run.claim({"k": "6"}, overwrite=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["flags.txt", "notes.txt"]
    assert run.read_flags() == {"k": "6"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match="holds something else"):
        runs.RunDirectory(tmp_path).claim(FLAGS, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to the run directory"):
        runs.RunDirectory(tmp_path / "file" / "run").claim(FLAGS)
    with pytest.raises(UserError, match="is a file"):
        runs.RunDirectory(tmp_path / "file").claim(FLAGS)


def test_damaged_files_are_named(run, tmp_path):
    nested = json.dumps({**RESULTS, "nll": {**RESULTS["nll"], "mean": "90.5"}})
    for damaged in ("{", "{}", "[]", "3", "[" * 100_000, nested, json.dumps({**RESULTS, "elbo": True})):
        run.results.write_text(damaged)
        with pytest.raises(UserError, match="results.json .*remove it to evaluate again"):
            run.read_results()
    run.history.write_text("epoch,step\n1,x\n")
    with pytest.raises(UserError, match="history.csv .*remove it"):
        run.read_history()
    run.flags.write_text("\0\0")
    with pytest.raises(UserError, match="flags.txt is damaged"):
        run.read_flags()
    with pytest.raises(UserError, match="is not a run directory"):
        runs.RunDirectory(tmp_path / "nothing").read_flags()


def test_history_is_read_as_it_was_written(run):
    assert run.read_history() == []
    rows = [{name: float(i + j) / 4.0 for j, name in enumerate(runs.HISTORY_COLUMNS)} for i in range(3)]
    run.write_history(rows)
    assert run.read_history() == rows


def test_results_must_be_finite(run):
    with pytest.raises(ValueError, match="JSON"):
        run.write_results({"nll": float("nan")})
    assert run.read_results() is None


def test_a_failed_write_leaves_the_old_file_and_no_other(run, monkeypatch):
    run.write_results(RESULTS)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_results({**RESULTS, "elbo": 2.0})
    assert run.read_results() == RESULTS
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "flags.txt", "results.json"]


def test_arrays_are_written_without_pickles(run):
    files.write_arrays(run.samples, {"probabilities": np.arange(6.0).reshape(2, 3)})
    with np.load(run.samples, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["probabilities"], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])


def test_a_second_process_is_refused_and_a_dead_one_forgotten(run):
    """The lock is the first process's as long as it lives."""
    code = f"from iwae_tf import runs; runs.RunDirectory({str(run.path)!r}).claim({FLAGS!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: Another process works in" in second.stderr
    run.release()
    holder = subprocess.Popen([sys.executable, "-c", f"{code}; print(flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE)  # fmt: skip
    holder.stdout.readline()
    with pytest.raises(UserError, match="Another process works in"):
        run.claim(FLAGS)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with run:
        run.claim(FLAGS)


@pytest.mark.parametrize("name", ["checkpoints", "figures/samples.png", "results.json", "pruned"])
def test_symbolic_links_are_refused(run, tmp_path, name):
    """By them a run directory from elsewhere could have us write or remove elsewhere."""
    run.checkpoints.rmdir()
    run.figures.mkdir()
    (tmp_path / "mine").mkdir()
    (run.path / name).symlink_to(tmp_path / "mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is a symbolic link"):
            run.claim(FLAGS, overwrite)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("checkpoints", pathlib.Path.touch),
        ("figures", pathlib.Path.touch),
        ("train", pathlib.Path.touch),
        ("saved_model", pathlib.Path.touch),
        ("pruned", pathlib.Path.touch),
        ("flags.txt", pathlib.Path.mkdir),
        ("history.csv", pathlib.Path.mkdir),
        ("results.json", os.mkfifo),
    ],
)
def test_entries_that_no_run_leaves_are_refused(tmp_path, name, make):
    run = runs.RunDirectory(tmp_path)
    run.claim(FLAGS)
    run.flags.unlink()
    make(tmp_path / name)
    for refuse in (lambda: run.claim(FLAGS), lambda: run.claim(FLAGS, overwrite=True), run.read_flags):
        with pytest.raises(UserError, match=f"{name} is no f"):
            refuse()


def test_what_a_killed_write_left_is_removed_and_hinders_nobody(tmp_path):
    """The first file of a run was being written."""
    run = runs.RunDirectory(tmp_path)
    (tmp_path / ".flags.txt.0a1b").write_text("--k")
    run.claim(FLAGS)
    run.checkpoints.mkdir()
    (run.checkpoints / ".ckpt-3.npz.0a1b").touch()
    (tmp_path / ".saved_model.old").mkdir()
    run.claim(FLAGS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "flags.txt"]


def test_the_pruned_model_goes_with_the_model_that_it_comes_from(run):
    for remove in (run.discard_results, run.discard_pruned, lambda: run.claim(FLAGS, overwrite=True)):
        (run.pruned / "saved_model").mkdir(parents=True)
        (run.pruned / "pruned.json").touch()
        remove()
        assert not run.pruned.exists()


def test_overwriting_never_leaves_a_run_without_its_flags(run, monkeypatch):
    """Ended at any moment, it can be done again, whatever else the folder holds."""
    (run.path / "notes.txt").write_text("mine")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            run.claim({"k": "6"}, overwrite=True)
    run.claim({"k": "6"}, overwrite=True)
    assert run.read_flags() == {"k": "6"}
