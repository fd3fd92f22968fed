"""The benchmarks' arithmetic; what they time is not asserted on."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import roofline
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


def test_the_measured_rate_is_that_of_some_machine():
    rate = roofline.measure([roofline.Product(64, 64, 64)], seconds=0.01)
    assert np.isfinite(rate)
    assert rate > 0.0
