"""The flagfiles for data of one's own fit the data that they are for, and each trains a step."""

import pathlib

import numpy as np
import pytest

from iwae_tf import main, runs

FOLDER = pathlib.Path(__file__).parent.parent / "flags" / "data"
RNG = np.random.default_rng(0)
TABLES = {
    "real_table": RNG.normal(size=[80, 3]),
    "table_with_outliers": RNG.standard_t(2, size=[80, 3]),
    "counts": RNG.poisson(3, [80, 3]),
    "binary_table": RNG.integers(0, 2, [80, 3]),
    "colour_images": RNG.integers(0, 256, [80, 8, 8, 3]).astype(np.uint8),
}
ON_MNIST = ("grey_mnist", "conv_mnist")
SHORT = ("--epochs=1", "--max_images=60", "--batch_size=20", "--nojit", "--noexport", "--nll_samples=5")


def test_every_flagfile_has_a_test():
    assert {path.stem for path in FOLDER.glob("*.flags")} == {*TABLES, *ON_MNIST}


def _slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", ["counts", *_slow(*sorted(set(TABLES) - {"counts"}), *ON_MNIST)])
def test_a_flagfile(name, tmp_path):
    data = []
    if name in TABLES:
        np.save(tmp_path / "data.npy", TABLES[name])
        data = [f"--dataset=npy:{tmp_path / 'data.npy'}"]
    run_dir = tmp_path / "run"
    main.main(["main", f"--flagfile={FOLDER / name}.flags", *data, *SHORT, f"--run_dir={run_dir}"])
    assert np.isfinite(runs.RunDirectory(run_dir).read_results().nll.mean)
