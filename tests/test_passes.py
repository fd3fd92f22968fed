"""The passes of an evaluation, and the file of an interrupted one."""

import dataclasses

import numpy as np
import pytest

from iwae_tf import datasets, supports
from iwae_tf.errors import UserError
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.experiment import evaluate, parsing, passes
from iwae_tf.experiment.unfinished import UnfinishedEvaluation
from iwae_tf.runs.results import Training

EVALUATION = {"steps": 6, "num_images": {"test": 60, "train": 20}, "nll_samples": 30}
NUM_IMAGES = EVALUATION["num_images"]


def _estimates(num_images, num_samples=30, value=1.0):
    zeros = Estimates.zeros(num_samples, 50, num_images)
    return zeros.with_arrays({name: array + value for name, array in zeros.arrays().items()})


def _written(folder, test, train=None, evaluation=EVALUATION):
    """Writes estimates, reads them for an evaluation, and returns the numbers of test and training images read."""
    path = folder / "unfinished.npz"
    UnfinishedEvaluation(path, EVALUATION).write({"test": test, "train": train or _estimates(0)})
    read = UnfinishedEvaluation(path, evaluation).read(NUM_IMAGES, 30, 50)
    return len(read["test"]), len(read["train"])


def test_finished_estimates_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "unfinished.npz"
    UnfinishedEvaluation(path, EVALUATION).write({"test": _estimates(20), "train": _estimates(0)})
    read = UnfinishedEvaluation(path, EVALUATION).read(NUM_IMAGES, 30, 50)
    for name, array in read["test"].arrays().items():
        np.testing.assert_array_equal(array, _estimates(20).arrays()[name])
    assert len(read["train"]) == 0


def test_estimates_that_are_not_finite_are_measured_again(tmp_path):
    assert _written(tmp_path, _estimates(20, value=np.nan)) == (0, 0)
    without_k_hats = dataclasses.replace(_estimates(20), k_hats=np.full(20, np.nan))
    assert _written(tmp_path, without_k_hats) == (20, 0)


def test_estimates_of_other_sizes_are_measured_again(tmp_path):
    assert _written(tmp_path, _estimates(61)) == (0, 0)
    assert _written(tmp_path, _estimates(20, num_samples=5000)) == (0, 0)
    uneven = dataclasses.replace(_estimates(20), elbos=np.ones(19))
    assert _written(tmp_path, uneven) == (0, 0)
    assert _written(tmp_path, _estimates(20), _estimates(20)) == (20, 20)
    assert _written(tmp_path, _estimates(60), _estimates(21)) == (60, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 7},
        {"nll_samples": 5000},
        {"num_images": {"test": 50, "train": 20}},
        # Another pass with as many images.
        {"num_images": {"test": 60, "binarization_1": 20}},
        {"khat_images": 7},
    ],
)
def test_estimates_of_another_evaluation_are_ignored(tmp_path, change):
    assert _written(tmp_path, _estimates(20), evaluation=EVALUATION | change) == (0, 0)


def test_everything_that_an_evaluation_depends_on_is_in_its_key():
    def key(*words, steps=6):
        options = parsing.parse(["main", *words])
        return passes._evaluation(options, Training(steps=steps, epochs=1, seconds=1.0), NUM_IMAGES)

    words = ["--nll_samples=7"], ["--khat_images=7"], ["--binarization_seeds=2"], ["--train_nll_images=20"]
    keys = [key(), key(steps=7), *(key(*flags) for flags in words)]
    assert len({str(value) for value in keys}) == len(keys)
    assert key("--noexport") == key()


def test_nothing_is_written_before_an_image_is_finished(tmp_path):
    assert _written(tmp_path, _estimates(0)) == (0, 0)
    assert not list(tmp_path.iterdir())


def test_frequent_writes_are_skipped(tmp_path):
    path = tmp_path / "unfinished.npz"
    unfinished = UnfinishedEvaluation(path, EVALUATION)
    unfinished.write({"test": _estimates(20)}, seconds_between=600.0)
    assert not path.exists()
    unfinished.write({"test": _estimates(20)})
    unfinished.write({"test": _estimates(40)}, seconds_between=600.0)
    assert len(UnfinishedEvaluation(path, EVALUATION).read(NUM_IMAGES, 30, 50)["test"]) == 20


def test_the_passes_that_are_asked_for():
    images = datasets.Dataset(*(np.full([n, 4], 128, np.uint8) for n in (9, 2, 5)), event_shape=(2, 2))
    words = ["--khat_images=3", "--binarization_seeds=3", "--train_nll_images=7"]
    wanted = passes.evaluation_passes(parsing.parse(["main", *words]), images, supports.BINARY)
    assert {name: (images.num_images, images.seed, images.num_k_hats) for name, images in wanted.items()} == {
        "test": (5, 0, 3),
        "binarization_1": (5, 1, 0),
        "binarization_2": (5, 2, 0),
        "train": (7, 0, 0),
    }
    assert not np.array_equal(wanted["test"].draw(), wanted["binarization_1"].draw())
    assert list(passes.evaluation_passes(parsing.parse(["main"]), images, supports.BINARY)) == ["test"]


def test_bounds_that_are_not_finite_are_refused():
    estimates = dataclasses.replace(_estimates(2, num_samples=1), bounds=np.array([[1.0, -np.inf], [1.0, 1.0]]))
    with pytest.raises(UserError, match=r"1 test images are not finite \(the first is number 1, -inf nats\)"):
        evaluate._refuse_infinite("test images", estimates)
