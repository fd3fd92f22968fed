import json
import os
import pathlib
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from absl import flags as absl_flags
from fake_runs import RESULTS

from iwae_tf import runs
from iwae_tf.errors import UserError
from iwae_tf.runtime import files

FLAGS = {"k": "5", "stages": "3"}


@pytest.fixture
def run(tmp_path):
    run = runs.RunDirectory(tmp_path / "deep" / "run")
    run.claim(FLAGS)
    run.checkpoints.mkdir()
    return run


def results(**changes):
    return msgspec.convert(RESULTS | changes, runs.Results)


def _names(paths):
    """Sorted, without the lock."""
    return sorted(path.name for path in paths if path.name != ".lock")


def test_claiming_writes_a_flagfile_and_may_be_repeated(run):
    assert run.flags.read_text() == "# iwae_tf run, format 2\n--k=5\n--stages=3\n"
    run.claim(FLAGS)
    assert run.read_flags() == FLAGS


def test_absl_reads_the_flagfile(run):
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_integer("k", 1, "", flag_values=values)
    absl_flags.DEFINE_string("stages", "", "", flag_values=values)
    assert values(["program", f"--flagfile={run.flags}"]) == ["program"]
    assert (values.k, values.stages) == (5, "3")


@pytest.mark.parametrize("number", ["3", "10", "9" * 5000])
def test_a_later_format_is_refused(run, number):
    run.flags.write_text(f"# iwae_tf run, format {number}\n--k=5\n")
    for refuse in (run.read_flags, lambda: run.check(FLAGS), lambda: run.claim(FLAGS, overwrite=True)):
        with pytest.raises(UserError, match="later version of iwae_tf .*update iwae_tf"):
            refuse()
    assert run.flags.read_text().endswith("--k=5\n")


@pytest.mark.parametrize("first_line", ["", "# iwae_tf run, format 1\n", "# a comment\n"])
def test_earlier_formats_are_read_and_updated(run, first_line):
    run.flags.write_text(f"{first_line}--k=5\n--stages=3\n")
    assert run.read_flags() == FLAGS
    run.claim(FLAGS)
    assert run.flags.read_text().startswith("# iwae_tf run, format 2\n")


def test_settings_that_an_older_run_does_not_know_have_the_value_from_before(tmp_path, run):
    newer = runs.RunDirectory(run.path, before={"beta": "1.0", "k": "7"})
    newer.check({**FLAGS, "beta": "1.0"})
    with pytest.raises(UserError, match=r"other settings \(beta is 1.0 there and 2.0 here\)"):
        newer.check({**FLAGS, "beta": "2.0"})
    with pytest.raises(UserError, match=r"other settings \(gamma is \(not set\) there and 3 here\)"):
        newer.check({**FLAGS, "beta": "1.0", "gamma": "3"})
    with pytest.raises(UserError, match=r"k is 5 there and 7 here"):
        newer.check({**FLAGS, "k": "7"})


def test_the_same_name_of_a_file_in_another_locale_is_no_other_setting(tmp_path):
    name = "d\u00e4t\u2028a.npz"
    in_ascii = name.encode().decode("ascii", "surrogateescape")
    for first, second in ((name, in_ascii), (in_ascii, name)):
        run = runs.RunDirectory(tmp_path / first.encode("ascii", "replace").decode().replace("?", "_"))
        run.claim({"dataset": first})
        run.release()
        run.checkpoints.mkdir()
        run.check({"dataset": second})
        with pytest.raises(UserError, match="other settings"):
            run.check({"dataset": "other.npz"})


def test_other_settings_are_refused_with_the_differences(run):
    with pytest.raises(UserError, match=r"other settings \(k is 5 there and 6 here\)"):
        run.claim({**FLAGS, "k": "6"})
    assert run.read_flags() == FLAGS


def test_settings_may_change_before_anything_is_trained(run):
    run.checkpoints.rmdir()
    run.claim({**FLAGS, "k": "6"})
    assert run.read_flags()["k"] == "6"


def test_stages_may_grow_but_not_shrink(run):
    run.claim({**FLAGS, "stages": "4"})
    assert run.read_flags()["stages"] == "4"
    with pytest.raises(UserError, match="stages is 4 there and 3 here"):
        run.claim(FLAGS)


@pytest.mark.parametrize("stages", ["", "-1", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_stages_that_are_not_a_number_are_refused(run, stages):
    run.flags.write_text(f"--k=5\n--stages={stages}\n")
    with pytest.raises(UserError, match="other settings"):
        run.claim(FLAGS)


DATA = runs.DataDescription(image_shape=(3, 4), sha256="0123")
OTHER_DATA = runs.DataDescription(image_shape=(3, 4), sha256="4567")


def test_other_images_are_refused_once_something_is_trained(run):
    run.claim(FLAGS, data=DATA)
    run.claim(FLAGS, data=OTHER_DATA)
    assert run.read_data().sha256 == "4567"
    (run.checkpoints / "ckpt-1.npz").touch()
    run.claim(FLAGS, data=OTHER_DATA)
    with pytest.raises(UserError, match=r"trained on other images \(sha256 is 4567 there and 0123 here\)"):
        run.claim(FLAGS, data=DATA)
    assert run.read_data().sha256 == "4567"
    run.data.write_text("damaged")
    run.claim(FLAGS, overwrite=True, data=DATA)
    assert run.read_data() == DATA


def test_fields_that_data_json_lacks_are_not_compared(run):
    """Older versions did not write all of them."""
    (run.checkpoints / "ckpt-1.npz").touch()
    run.data.write_text('{"image_shape": [3, 4], "sha256": "0123"}')
    data = runs.DataDescription(binarization="fixed", image_shape=(3, 4), num_duplicates=7, sha256="0123")
    run.claim(FLAGS, data=data)
    assert run.read_data() == data
    run.data.write_text('{"image_shape": [4, 3], "num_images": {"train": 5}}')
    with pytest.raises(UserError, match=r"other images \(image_shape is \(4, 3\) there and \(3, 4\) here\)"):
        run.claim(FLAGS, data=data)
    assert run.read_data().num_images == {"train": 5}
    assert run.read_data().sha256 is msgspec.UNSET
    run.data.unlink()
    run.claim(FLAGS, data=data)
    assert run.read_data() == data


def test_a_missing_or_damaged_data_json_is_refused(run):
    with pytest.raises(UserError, match="has no data.json"):
        run.read_data()
    for damaged in ("{}", '{"image_shape": null}', '{"image_shape": [0, 3]}', "[]"):
        run.data.write_text(damaged)
        with pytest.raises(UserError, match="data.json is damaged.*remove it"):
            run.read_data()
    run.data.write_text("{")
    with pytest.raises(UserError, match="Cannot read .*data.json .*remove it"):
        run.read_data()


def test_the_folder_of_the_data_may_move(run):
    run.claim({**FLAGS, "data_dir": "here"})
    run.claim({**FLAGS, "data_dir": "there"})
    assert run.read_flags()["data_dir"] == "there"


def test_overwriting_removes_the_run_and_nothing_else(run):
    run.write_results(results())
    run.gradients.write_text("{}")
    run.figures.mkdir()
    (run.figures / "gradients.png").touch()
    (run.path / "notes.txt").write_text("mine")
    run.claim({"k": "6"}, overwrite=True)
    assert _names(run.path.iterdir()) == ["flags.txt", "notes.txt"]
    assert run.read_flags() == {"k": "6"}


def test_further_training_removes_what_describes_the_earlier_model(run):
    run.write_results(results())
    run.gradients.write_text("{}")
    run.unfinished_evaluation.touch()
    run.figures.mkdir()
    for name in ("gradients.png", "gradients.pdf", "bounds.png"):
        (run.figures / name).touch()
    run.test_events.mkdir()
    for path in (run.settings_events, run.result_events, run.test_events / "sprite.png"):
        path.touch()
    run.discard_results()
    left = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert left - {".lock"} == {"figures/bounds.png", "flags.txt", f"test/{run.settings_events.name}"}
    run.discard_results()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match="holds something other than a run"):
        runs.RunDirectory(tmp_path).claim(FLAGS, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to the run directory"):
        runs.RunDirectory(tmp_path / "file" / "run").claim(FLAGS)
    with pytest.raises(UserError, match="is a file"):
        runs.RunDirectory(tmp_path / "file").claim(FLAGS)


def test_damaged_files_are_refused_by_name(run, tmp_path):
    huge = json.dumps({**RESULTS, "elbo": 1e12})
    nested = json.dumps({**RESULTS, "nll": {**RESULTS["nll"], "mean": "90.5"}})
    for damaged in ("{", "{}", "[]", "3", "[" * 100_000, nested, json.dumps({**RESULTS, "elbo": True}), huge):
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


@pytest.mark.parametrize(
    "name", ["npz:stra\u00dfe.npz", "npz:\udce4.npz", "npz:a\u2028b\u0085c.npz", "npz: =--k=7 .npz"]
)
def test_any_name_of_a_file_is_read_as_it_was_written(tmp_path, name):
    with runs.RunDirectory(tmp_path / "run") as run:
        run.claim({"dataset": name, "k": "5"})
        assert run.read_flags() == {"dataset": name, "k": "5"}
        run.claim({"dataset": name, "k": "5"})
        results = msgspec.convert(RESULTS | {"flags": {"dataset": name}}, runs.Results)
        run.write_results(results)
        assert run.read_results() == results


def test_the_history_of_a_training_that_diverges_is_read(run):
    row = dict.fromkeys(runs.HISTORY_COLUMNS, -7.5e27)
    run.path.mkdir(exist_ok=True)
    run.write_history([row])
    assert run.read_history() == [row]


def test_history_is_read_as_it_was_written(run):
    assert run.read_history() == []
    rows = [{name: float(i + j) / 4.0 for j, name in enumerate(runs.HISTORY_COLUMNS)} for i in range(3)]
    run.write_history(rows)
    assert run.read_history() == rows


def test_results_must_be_finite(run):
    with pytest.raises(ValueError, match="JSON"):
        run.write_results(msgspec.structs.replace(results(), elbo=float("nan")))
    assert run.read_results() is None


def test_results_are_read_as_they_were_written(run):
    quantiles = {"mean": 9.0, "1%": 1.25, "10%": 2.5, "50%": 7.5, "90%": 20.0}
    written = results(effective_sample_size=quantiles, versions={"iwae_tf": "1", "python": 3})
    run.write_results(written)
    read = run.read_results()
    assert read == written
    assert (read.nll.mean, read.nll.stderr, read.effective_sample_size.percent_50) == (90.5, None, 7.5)
    assert read.largest_weight is read.active_units.authors_code is msgspec.UNSET
    assert read.package_versions == {"iwae_tf": "1"}
    assert json.loads(run.results.read_text())["effective_sample_size"] == quantiles


def test_a_failed_write_leaves_the_old_results_and_no_other_file(run, monkeypatch):
    run.write_results(results())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_results(results(elbo=2.0))
    assert run.read_results() == results()
    assert _names(run.path.iterdir()) == ["checkpoints", "flags.txt", "results.json"]


def test_arrays_are_written_without_pickles(run):
    files.write_arrays(run.samples, {"probabilities": np.arange(6.0).reshape(2, 3)})
    with np.load(run.samples, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["probabilities"], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])


def test_a_second_process_is_refused_until_the_first_one_ends(run):
    """However the first one ends."""
    code = f"from iwae_tf import runs; run = runs.RunDirectory({str(run.path)!r}); run.claim({FLAGS!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: Another process is working in" in second.stderr
    run.release()
    holder = subprocess.Popen([sys.executable, "-c", f"{code}; print(flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE)  # fmt: skip
    holder.stdout.readline()
    with pytest.raises(UserError, match="Another process is working in"):
        run.claim(FLAGS)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with run:
        run.claim(FLAGS)


@pytest.mark.parametrize("name", ["checkpoints", "figures/samples.png", "results.json", "gradients.json", "pruned"])
def test_symbolic_links_are_refused(run, tmp_path, name):
    """With them, a run directory from elsewhere could make us write or remove files in other folders."""
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
        ("test", pathlib.Path.touch),
        ("saved_model", pathlib.Path.touch),
        ("pruned", pathlib.Path.touch),
        ("flags.txt", pathlib.Path.mkdir),
        ("history.csv", pathlib.Path.mkdir),
        ("results.json", os.mkfifo),
        ("gradients.json", pathlib.Path.mkdir),
    ],
)
def test_entries_of_the_wrong_kind_are_refused(tmp_path, name, make):
    run = runs.RunDirectory(tmp_path)
    run.claim(FLAGS)
    run.flags.unlink()
    make(tmp_path / name)
    for refuse in (lambda: run.claim(FLAGS), lambda: run.claim(FLAGS, overwrite=True), run.read_flags):
        with pytest.raises(UserError, match=f"{name} is not a f"):
            refuse()


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    """Even those of the first file of a run."""
    run = runs.RunDirectory(tmp_path)
    (tmp_path / ".flags.txt.0a1b").write_text("--k")
    run.claim(FLAGS)
    run.checkpoints.mkdir()
    (run.checkpoints / ".ckpt-3.npz.0a1b").touch()
    (tmp_path / ".saved_model.old").mkdir()
    run.claim(FLAGS)
    assert _names(tmp_path.rglob("*")) == ["checkpoints", "flags.txt"]


def test_the_pruned_model_is_removed_with_the_model_that_it_comes_from(run):
    for remove in (run.discard_results, run.discard_pruned, lambda: run.claim(FLAGS, overwrite=True)):
        (run.pruned / "saved_model").mkdir(parents=True)
        (run.pruned / "pruned.json").touch()
        remove()
        assert not run.pruned.exists()


def test_overwriting_never_leaves_a_run_without_its_flags(run, monkeypatch):
    """Interrupted at any moment, it can be repeated, whatever else the folder holds."""
    (run.path / "notes.txt").write_text("mine")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            run.claim({"k": "6"}, overwrite=True)
    run.claim({"k": "6"}, overwrite=True)
    assert run.read_flags() == {"k": "6"}
