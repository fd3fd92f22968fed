"""The arithmetic of the benchmarks, and smoke tests of what they time; times are not asserted on."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import program, roofline, table
from iwae_tf import models, networks


def _model():
    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(784, (50,), ((200, 200),)))
    model(tf.zeros([1, 784]))
    return model


def test_a_step_of_the_papers_model_has_the_arithmetic_of_its_products():
    """784-200-200-(50, 50) once an image, 50-200-200-784 once a sample; no gradient of x."""
    operations = sum(product.operations for product in roofline.step_products(_model(), batch=20, num_samples=50))
    first, encoder = 784 * 200, 200 * 200 + 2 * 200 * 50
    decoder = 50 * 200 + 200 * 200 + 200 * 784
    assert operations == 2 * 20 * (2 * first + 3 * encoder + 3 * 50 * decoder)
    assert operations == pytest.approx(1.27e9, rel=0.02)


def test_the_products_of_an_evaluation():
    operations = sum(product.operations for product in roofline.forward_products(_model(), num_samples=100))
    assert operations == 2 * (784 * 200 + 200 * 200 + 2 * 200 * 50 + 100 * (50 * 200 + 200 * 200 + 200 * 784))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_smoke_a_rate_is_measured(dtype):
    rate = roofline.measure([roofline.Product(64, 64, 64)], seconds=0.01, dtype=dtype)
    assert np.isfinite(rate)
    assert rate > 0.0


def test_a_row_shows_its_record():
    products = [roofline.Product(10_000, 20, 30)] * 2
    row = table.row("training", 1, 5, 20, seconds=2e-3, baseline_seconds=6e-3, rate=24e9, products=products)
    assert row["milliseconds"] == pytest.approx(2.0)
    assert row["achieved_gflops"] == pytest.approx(12.0)
    assert table.text(row).split() == ["1", "5", "20", "2.00", "10,000", "6.00", "3.00", "12.0", "24.0", "50%"]


@pytest.mark.slow
def test_smoke_both_paths_of_training_and_evaluation_run(tmp_path):
    """A few steps only."""
    images = program.first_images(num_steps=3, batch=2)
    assert len(images.train) == 6
    model = program.paper_model(1, 2)
    times = [
        next(program.training_epochs(model, images, 2, tmp_path / "run")),
        next(program.plain_training_epochs(program.paper_model(1, 2), images, 2)),
        next(program.fit_epochs(program.paper_model(1, 2), images, 2)),
        next(program.log_likelihoods(model, np.zeros([2, 784], np.float32), 10)),
        next(program.plain_log_likelihoods(model, np.zeros([2, 784], np.float32), 10)),
    ]
    assert min(times) > 0.0
