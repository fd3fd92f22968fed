"""Damaged and malicious files: they are refused with a clear error, or read without side effects."""

import contextlib
import io
import json
import pathlib
import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from fake_runs import RESULTS

from iwae_tf import runs
from iwae_tf.datasets import chardata, formats
from iwae_tf.errors import UserError
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.experiment import parsing, stored, summary
from iwae_tf.experiment.unfinished import UnfinishedEvaluation
from iwae_tf.report import reported_run, rows, text
from iwae_tf.runs import checkpoints
from iwae_tf.runtime import files


def _packed(**arrays):
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def _results(run):
    results, options = run.read_results(), parsing.parse(["main"])
    summary.table(options, results)
    reported_runs = [reported_run.ReportedRun(1, "run", options, results, [], results.data)]
    content = rows.contents(reported_runs, reported_run.group_seeds(reported_runs))
    text.report_text(content, []).encode()
    json.dumps(content, allow_nan=False)


def _unfinished(run):
    read = UnfinishedEvaluation(run.unfinished_evaluation, {"steps": 6}).read({"test": 5}, 3, 50)
    assert len(read["test"]) <= 5


def _checkpoint(run):
    checkpoints.read_last(run.path, {"weights": (2, 3)})


_UNFINISHED = {f"test/{name}": array for name, array in Estimates.zeros(3, 50, 4).arrays().items()}
_UNFINISHED["key"] = np.array('{"steps": 6}')
ROW = ",".join(["1"] * len(runs.HISTORY_COLUMNS))
OPTIONAL = {
    "bounds": [{"k": 5, "mean": -91.0, "stderr": None}],
    "corrected_nll": {"mean": 90.0, "stderr": 0.1},
    "effective_sample_size": dict.fromkeys(("mean", "1%", "10%", "50%", "90%"), 3.0),
    "largest_weight": dict.fromkeys(("mean", "1%", "10%", "50%", "90%"), 0.5),
    "k_hat": {"num_images": 1, "threshold": 0.7, "share_above": 0.5},
    "binarizations": {"seeds": [0, 1], "nll": [90.0, 91.0], "mean": 90.5, "sd": 0.5},
    "train_nll": {"mean": 80.0, "stderr": None, "num_samples": 5, "num_images": 1},
    "versions": {"iwae_tf": "0.1.0"},
}
# Name -> an undamaged file, and the function that reads it.
FILES = {
    "flags.txt": (
        b"# iwae_tf run, format 2\n--k=5\n--latent_dims=100,50\n--seed=3\n--dataset=mnist\n",
        stored.read_options,
    ),
    "results.json": (json.dumps(RESULTS | OPTIONAL).encode(), _results),
    "history.csv": (f"{','.join(runs.HISTORY_COLUMNS)}\n{ROW}\n".encode(), runs.RunDirectory.read_history),
    "data.json": (b'{"image_shape": [28, 28], "sha256": "01"}', runs.RunDirectory.read_data),
    "ckpt-6.npz": (_packed(weights=np.ones((2, 3), np.float32)), _checkpoint),
    "unfinished_evaluation.npz": (_packed(**_UNFINISHED), _unfinished),
    "own.npz": (
        _packed(train=np.eye(4, dtype=np.uint8).reshape(2, 2, 4), test=np.ones((1, 2, 4), np.uint8)),
        lambda run: formats.read_npz(run.path / "own.npz"),
    ),
    "chardata.mat": (b"MATLAB 5.0 MAT-file", lambda run: chardata.read_chardata(run.path)),
}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(RESULTS | OPTIONAL)), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def _damaged(draw, whole):
    """Bytes of a damaged file, or of something else."""
    kind = draw(st.sampled_from(["cut", "changed", "inserted", "foreign", "json"]))
    at = draw(st.integers(0, len(whole) - 1))
    few = draw(st.binary(max_size=20))
    return {
        "cut": whole[:at],
        "changed": whole[:at] + few + whole[at + len(few) :],
        "inserted": whole[:at] + few + whole[at:],
        "foreign": few,
        "json": json.dumps(draw(_JSON)).encode(),
    }[kind]


@pytest.mark.parametrize("name", FILES)
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_damaged_files_are_refused_or_read_without_side_effects(name, data):
    whole, read = FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        run = runs.RunDirectory(folder)
        (run.path / name).write_bytes(data.draw(_damaged(whole)))
        before = sorted(pathlib.Path(folder).iterdir())
        with contextlib.suppress(UserError):
            read(run)
        assert sorted(pathlib.Path(folder).iterdir()) == before


@pytest.mark.parametrize("name", FILES)
def test_undamaged_files_are_read(name, tmp_path):
    """The test above would not notice a reader that refuses everything."""
    whole, read = FILES[name]
    (tmp_path / name).write_bytes(whole)
    if name == "chardata.mat":
        with pytest.raises(UserError, match="016a3536"):
            read(runs.RunDirectory(tmp_path))
    else:
        read(runs.RunDirectory(tmp_path))


class _Trap:
    """If it is unpickled, it creates a file."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["ckpt-6.npz", "unfinished_evaluation.npz", "own.npz"])
def test_nothing_in_an_array_file_is_executed(name, tmp_path):
    trap = np.array([_Trap(tmp_path / "trapped")], object)
    np.savez(tmp_path / name, weights=trap, key=trap, **{"test/elbos": trap}, train=trap, test=trap)
    assert files.read_arrays(tmp_path / name) is None
    with contextlib.suppress(UserError):
        FILES[name][1](runs.RunDirectory(tmp_path))
    assert not (tmp_path / "trapped").exists()
    with np.load(tmp_path / name, allow_pickle=True) as arrays:
        arrays["weights"]
    assert (tmp_path / "trapped").exists()  # The trap works.


@pytest.mark.parametrize("line", ["--flagfile=/etc/passwd", "--run_dir=/elsewhere", "--overwrite=True", "--nonsense=1"])
def test_other_flags_in_the_flagfile_of_a_run_are_refused(line, tmp_path):
    (tmp_path / "flags.txt").write_text(f"--k=5\n{line}\n")
    with pytest.raises(UserError, match="is not a flag of a run"):
        stored.read_options(runs.RunDirectory(tmp_path))
