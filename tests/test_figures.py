import matplotlib.image
import numpy as np

from iwae_tf import figures
from iwae_tf.evaluation import latents


def test_image_grid_places_images_row_by_row():
    images = np.stack([np.full((3, 2), value) for value in (0.0, 0.25, 1.0, 0.75, 0.9)])
    grid = figures.image_grid(images, columns=3)
    assert grid.shape == (2 * 4 + 1, 3 * 3 + 1)
    np.testing.assert_array_equal(grid[1:4, 7:9], images[2])
    np.testing.assert_array_equal(grid[5:8, 1:3], images[3])
    assert np.all(grid[5:8, 7:9] == 0.5)  # No sixth image.


def test_saved_image_has_the_grids_values(tmp_path):
    grid = np.linspace(0.0, 1.0, 12).reshape(3, 4)
    figures.save_image(tmp_path / "grid.png", grid)
    read = matplotlib.image.imread(tmp_path / "grid.png")[::2, ::2, 0]
    np.testing.assert_allclose(read, grid, atol=1.0 / 255.0)


def test_learning_curves_of_one_epoch_and_of_many(tmp_path):
    for epochs in (1, 40):
        values = -100.0 - 400.0 / np.arange(1, epochs + 1)
        history = {f"{split}_{bound}": values for split in ("train", "validation") for bound in ("iwae_bound", "elbo")}
        figures.save_learning_curves(tmp_path / "bounds.png", {"epoch": range(epochs), **history}, "iwae", 5)
        assert matplotlib.image.imread(tmp_path / "bounds.png").std() > 0.05


def test_units_of_one_layer_and_of_several_of_which_some_do_nothing(tmp_path):
    layers = [
        {"variances": [0.9, 0.0, 0.3, 1e-5], "kls": [2.0, -1e-6, 1.0, 0.0]},
        {"variances": [0.0, None], "kls": [0.0, None]},
    ]
    for shown in (layers, layers[:1], layers[1:]):
        figures.save_units(tmp_path / "units.png", shown, 0.01, "iwae")
        assert matplotlib.image.imread(tmp_path / "units.png").std() > 0.05


def test_traversals_and_posteriors_of_one_image_and_of_more(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4, 6, 5))
    density = np.exp(-0.5 * np.sum(np.square(np.meshgrid(*2 * [np.linspace(-6.0, 6.0, 50)])), axis=0)) / (2.0 * np.pi)
    low, high = np.full(2, -6.0), np.full(2, 6.0)
    posterior = latents.Posterior(low, high, density, -3.0, -4.0, np.array([1.0, 0.0]), np.array([0.5, 0.1]))
    for count in (1, 4):
        pixels = rng.uniform(size=(count, 2, 11, 6, 5))
        figures.save_traversal(tmp_path / "a.png", images[:count], ["u", "v"], latents.STDDEVS, pixels)
        figures.save_posteriors(tmp_path / "b.png", images[:count], count * [posterior], "iwae")
        for name in ("a.png", "b.png"):
            assert matplotlib.image.imread(tmp_path / name).std() > 0.05
