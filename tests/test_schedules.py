import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import models, schedules


def test_the_cosine_falls_from_the_peak_to_a_hundredth():
    rates = schedules.cosine(np.array([0.0, 0.5, 1.0], np.float32), 2e-3).numpy()
    np.testing.assert_allclose(rates, [2e-3, 2e-3 * 0.505, 2e-5], rtol=1e-4)
    keras_schedule = schedules.CosineSchedule(2e-3, total_steps=10)
    np.testing.assert_allclose([keras_schedule(step) for step in (0, 5, 10, 11)], [*rates, rates[-1]], rtol=1e-4)


@pytest.mark.parametrize(
    ("stage", "first", "last"), [(0, 0, 0), (1, 1, 3), (2, 4, 12), (3, 13, 39), (6, 364, 1092), (7, 1093, 3279)]
)
def test_the_papers_rate_falls_at_the_end_of_each_stage(stage, first, last):
    """Stage i lasts 3^i epochs; stages 1 to 7 begin after epochs 1, 4, 13, 40, 121, 364 and 1093."""
    expected = 1e-3 * 10.0 ** (-stage / 7.0)
    np.testing.assert_allclose(schedules.paper(np.array([first, last]), 1e-3), expected, rtol=1e-5)
    by_step = schedules.PaperSchedule(1e-3, steps_per_epoch=7)
    np.testing.assert_allclose([by_step(7 * first), by_step(7 * last + 6)], expected, rtol=1e-5)


def test_the_warm_up_rises_from_zero_to_one():
    values = models.warmup(tf.range(6), 4)
    np.testing.assert_allclose(values, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    assert float(models.warmup(tf.constant(3), 0)) == 1.0
