"""What the figures contain, read from matplotlib's artists; each figure is also written to a file."""

import os
import subprocess
import sys

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from iwae_tf import figures
from iwae_tf.evaluation import latents
from iwae_tf.experiment.flags import FIGURE_FORMATS
from iwae_tf.figures import output, style


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """A function that calls one of `figures` and returns the matplotlib figure that it saves."""
    saved = []
    save_figure = output.save_figure

    def keep_and_save(figure, path):
        saved.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(output, "save_figure", keep_and_save)

    def call(function, *arguments):
        path = tmp_path / "figure.png"
        path.unlink(missing_ok=True)
        function(path, *arguments)
        assert matplotlib.image.imread(path).ndim == 3
        return saved.pop()

    return call


def _lines(axes):
    """The lines of a plot, label -> (x, y)."""
    return {line.get_label(): line.get_data() for line in axes.lines}


def _legend(artist):
    return [text.get_text() for text in artist.get_legend().get_texts()]


def _color(value):
    return matplotlib.colors.to_rgba(value)


@pytest.mark.parametrize("shape", [(784, 1), (2000, 1), (1, 784)])
def test_pictures_of_tables_have_a_bounded_size(shape, tmp_path):
    pixels = np.zeros([1, 12, 9, *shape])
    figures.save_traversal(tmp_path / "a.png", pixels[:, 0, 0], ["unit"] * 12, np.linspace(-2.0, 2.0, 9), pixels)
    figures.save_grids(tmp_path / "b.png", [np.zeros([10 * shape[0], 10 * shape[1]])] * 2, ["left", "right"])
    for name in ("a.png", "b.png"):
        assert max(matplotlib.image.imread(tmp_path / name).shape) < 10_000


def test_outliers_do_not_squeeze_the_histogram_of_the_scores(draw):
    usual = np.linspace(-90.0, -70.0, 100)
    (axes,) = draw(figures.save_scores, np.append(usual, -1e6), usual, "new").axes
    assert axes.get_xlim()[0] > -350.0
    assert "includes 1 below" in axes.get_xlabel()


def test_new_data_far_from_the_test_data_are_no_outliers(draw):
    usual = np.linspace(-90.0, -70.0, 100)
    (axes,) = draw(figures.save_scores, usual[:9] - 1000.0, usual, "new").axes
    assert axes.get_xlim()[0] < -1080.0
    assert "includes" not in axes.get_xlabel()


def test_equal_scores_are_drawn(draw):
    draw(figures.save_scores, np.full(4, -3.0), None, "new")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_drawing_does_not_depend_on_the_backend_of_the_environment(backend, tmp_path):
    code = "import numpy, iwae_tf.figures as f; f.save_grids('a.png', [numpy.zeros([4, 4])] * 2, ['a', 'b'])"
    environment = os.environ | {"MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "a.png").exists()


def test_image_grid_places_images_row_by_row():
    images = np.stack([np.full((3, 2), value) for value in (0.0, 0.25, 1.0, 0.75, 0.9)])
    grid = figures.image_grid(images, columns=3)
    assert grid.shape == (2 * 4 + 1, 3 * 3 + 1)
    np.testing.assert_array_equal(grid[1:4, 7:9], images[2])
    np.testing.assert_array_equal(grid[5:8, 1:3], images[3])
    assert np.all(grid[5:8, 7:9] == 0.5)  # There is no sixth image.


def test_a_saved_image_has_the_values_of_the_grid(tmp_path):
    grid = np.linspace(0.0, 1.0, 12).reshape(3, 4)
    figures.save_image(tmp_path / "grid.png", grid)
    read = matplotlib.image.imread(tmp_path / "grid.png")
    assert read.shape[:2] == (375, 500)
    np.testing.assert_allclose(read[::125, ::125, 0], grid, atol=1.0 / 255.0)


@pytest.mark.parametrize(
    ("shape", "size"), [((900, 300), (1800, 600)), ((1000, 10), (2000, 20)), ((30, 30, 3), (510, 510))]
)
def test_the_size_of_a_saved_image(tmp_path, shape, size):
    figures.save_image(tmp_path / "grid.png", np.zeros(shape))
    assert matplotlib.image.imread(tmp_path / "grid.png").shape[:2] == size


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_a_figure_is_written_in_several_formats_always_with_the_same_bytes(form, tmp_path):
    beginning = {"pdf": b"%PDF", "svg": b"<?xml"}[form]
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        rows = [{"label": "a", "mean": 1.0, "stderr": 0.5}]
        figures.save_nll_by_class([folder / "plot.png", folder / f"plot.{form}"], rows, 1.0, "a title")
        figures.save_image([folder / "grid.png", folder / f"grid.{form}"], np.eye(4))
        assert matplotlib.image.imread(folder / "grid.png").shape[:2] == (500, 500)
        contents.append([(folder / f"{name}.{form}").read_bytes() for name in ("plot", "grid")])
        assert all(content.startswith(beginning) for content in contents[-1])
    assert contents[0] == contents[1]


def test_the_look_does_not_depend_on_settings_and_leaves_them_alone(tmp_path):
    path = tmp_path / "a.png"
    figures.save_nll_by_class(path, [{"label": "a", "mean": 1.0, "stderr": None}], 1.0, "a title")
    content = path.read_bytes()
    with matplotlib.rc_context({"font.size": 30.0, "axes.grid": True}):
        figures.save_nll_by_class(path, [{"label": "a", "mean": 1.0, "stderr": None}], 1.0, "a title")
        assert path.read_bytes() == content
        assert matplotlib.rcParams["font.size"] == 30.0


def test_the_formats_are_those_of_the_flag():
    assert figures.FORMATS == FIGURE_FORMATS


def test_the_pixels_of_a_traversal_are_equally_large(tmp_path):
    """Each is a square of the same colour."""
    pixels = np.random.default_rng(0).integers(0, 2, [1, 3, 11, 6, 5]).astype(float)
    figures.save_traversal(tmp_path / "a.png", pixels[:, 0, 0], ["u"] * 3, latents.STDDEVS, pixels)
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., 0]
    grid = figures.image_grid(pixels.reshape(-1, 6, 5), 11)
    (high, wide), _ = style.magnified(grid.shape, (3 * 72, (1680 - 336) // 2))
    magnification = high // grid.shape[0]
    top, left = 24 + 2 * 6 * magnification + 24, 336
    drawn = picture[top : top + high, left : left + wide]
    np.testing.assert_allclose(drawn, grid.repeat(magnification, 0).repeat(magnification, 1), atol=1.0 / 255.0)


@pytest.mark.parametrize("labels", [None, np.array([3, 3, 8, 8, 8])])
def test_embeddings_have_a_panel_for_each_layer_and_method(labels, draw):
    points = np.random.default_rng(0).normal(size=(4, 5, 2))
    rows = {"layer 1": {"PCA": points[0], "t-SNE": points[1]}, "layer 2": {"PCA": points[2], "t-SNE": points[3]}}
    figure = draw(figures.save_embeddings, rows, labels, "a title")
    assert [axes.get_title() for axes in figure.axes] == [
        f"layer {i}, {name}" for i in (1, 2) for name in rows["layer 1"]
    ]
    for axes, expected in zip(figure.axes, points, strict=True):
        if labels is None:
            np.testing.assert_array_equal(np.transpose(axes.lines[0].get_data()), expected)
        else:
            np.testing.assert_array_equal(np.transpose(_lines(axes)["8"]), expected[2:])
            assert {text.get_text(): text.get_position() for text in axes.texts}["3"] == tuple(
                expected[:2].mean(axis=0)
            )


def test_the_nll_of_each_class(draw):
    rows = [{"label": "0", "mean": 90.0, "stderr": 0.5}, {"label": "1", "mean": 45.0, "stderr": None}]
    (axes,) = draw(figures.save_nll_by_class, rows, 80.0, "a title").axes
    (container,) = axes.containers
    np.testing.assert_array_equal(container.lines[0].get_data(), ([0, 1], [90.0, 45.0]))
    (bars,) = container.lines[2]
    np.testing.assert_array_equal(bars.get_segments(), [[[0, 89.5], [0, 90.5]], [[1, 45.0], [1, 45.0]]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
    assert axes.get_title() == "a title"


@pytest.mark.parametrize("count", [1, 3])
def test_worst_images_are_above_their_reconstructions(count, draw):
    rng = np.random.default_rng(0)
    images, reconstructions = rng.uniform(size=(2, count, 6, 5))
    captions = [f"no. {i}\nNLL" for i in range(count)]
    figure = draw(figures.save_worst_images, images, reconstructions, captions, "largest k-hat")
    assert len(figure.axes) == 2 * count
    for axes, image in zip(figure.axes, [*images, *reconstructions], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert axes.images[0].get_clim() == (0.0, 1.0)
    assert [axes.get_xlabel() for axes in figure.axes[count:]] == captions
    assert "largest k-hat" in figure.get_suptitle()


@pytest.mark.parametrize("count", [1, 2])
def test_grids_are_next_to_each_other_with_their_captions(count, draw):
    grids = list(np.random.default_rng(0).uniform(size=(count, 9, 7)))
    figure = draw(figures.save_grids, grids, ["VAE", "IWAE"][:count])
    assert [axes.get_title() for axes in figure.axes] == ["VAE", "IWAE"][:count]
    for axes, grid in zip(figure.axes, grids, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), grid)
        assert axes.images[0].get_clim() == (0.0, 1.0)


@pytest.mark.parametrize("num_epochs", [1, 40])
def test_learning_curves(num_epochs, draw):
    values = -100.0 - 400.0 / np.arange(1, num_epochs + 1)
    names = [f"{split}_{bound}" for split in ("train", "validation") for bound in ("iwae_bound", "elbo")]
    history = {name: values - i for i, name in enumerate(names)} | {"epoch": np.arange(1, num_epochs + 1)}
    figure = draw(figures.save_learning_curves, history, "a title", 5)
    (axes,), (legend,) = figure.axes, figure.legends
    lines = _lines(axes)
    labels = {
        "$L_{5}$, training": "train_iwae_bound",
        "$L_{5}$, validation": "validation_iwae_bound",
        "ELBO, training": "train_elbo",
        "ELBO, validation": "validation_elbo",
    }
    assert set(lines) == set(labels) == {text.get_text() for text in legend.get_texts()}
    for label, name in labels.items():
        np.testing.assert_array_equal(lines[label], (history["epoch"], history[name]))
    assert axes.get_title() == "a title"
    # The first tenth of the epochs is cut off, and the rest is visible.
    bottom, top = axes.get_ylim()
    assert bottom < history["validation_elbo"][num_epochs // 10 :].min()
    assert top > history["train_iwae_bound"].max()
    assert num_epochs == 1 or bottom > history["validation_elbo"][num_epochs // 10 - 2]


def test_the_bound_curve_shows_means_standard_errors_and_the_corrected_value(draw):
    rows = [{"k": 1, "mean": -90.0, "stderr": 0.5}, {"k": 1000, "mean": -86.25, "stderr": None}]
    (axes,) = draw(figures.save_bound_curve, rows, -86.125, "a title").axes
    lines = _lines(axes)
    np.testing.assert_array_equal(lines["$L_{k}$ of the test images"], ([1, 1000], [-90.0, -86.25]))
    np.testing.assert_array_equal(lines["$L_{1{,}000}$ corrected: \N{MINUS SIGN}86.12"][1], [-86.125, -86.125])
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1.0, -90.5), (1.0, -89.5), (1000.0, -86.25)}
    assert [text.get_text() for text in axes.texts] == ["\N{MINUS SIGN}86.25"]
    assert (axes.get_xscale(), axes.get_title()) == ("log", "a title")


def test_the_gradients_of_both_networks_are_plotted_for_each_estimator(draw):
    rows = [
        {"network": network, "estimator": estimator, "k": k, "variance": i + 1.0 / k, "signal_to_noise": i + k**0.5}
        for i, (network, estimator) in enumerate(
            (("inference", "standard"), ("inference", "dreg"), ("generative", "standard"))
        )
        for k in (1, 16)
    ]
    figure = draw(figures.save_gradients, rows)
    ratio_q, ratio_p, variance_q, variance_p = figure.axes
    np.testing.assert_array_equal(_lines(ratio_q)["standard"], ([1, 16], [1.0, 4.0]))
    np.testing.assert_array_equal(_lines(ratio_q)["dreg"], ([1, 16], [2.0, 5.0]))
    np.testing.assert_array_equal(_lines(ratio_p)["standard"], ([1, 16], [3.0, 6.0]))
    np.testing.assert_array_equal(_lines(variance_q)["dreg"], ([1, 16], [2.0, 1.0625]))
    np.testing.assert_array_equal(_lines(variance_p)["standard"], ([1, 16], [3.0, 2.0625]))
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 2, 1]
    assert ratio_q.get_ylabel() == ratio_p.get_ylabel() == "signal-to-noise ratio"
    assert variance_q.get_ylabel() == variance_p.get_ylabel() == "variance of a parameter's gradient"
    assert [axes.get_title() for axes in figure.axes] == 2 * ["inference network", "generative network"]
    assert all(axes.get_xticks().tolist() == [1, 16] for axes in figure.axes)


def _curve(label, num_epochs, minutes_per_epoch):
    epochs = np.arange(1, num_epochs + 1)
    bounds = -90.0 - 200.0 / epochs
    return {"label": label, "epochs": epochs, "minutes": minutes_per_epoch * epochs, "bounds": bounds}


def test_validation_curves_are_plotted_against_epochs_and_minutes(draw):
    curves = [_curve("a", 30, 0.5), _curve("b", 40, 0.25)]
    figure = draw(figures.save_validation_curves, curves)
    for axes, quantity in zip(figure.axes, ("epochs", "minutes"), strict=True):
        lines = _lines(axes)
        assert list(lines) == ["a", "b"]
        for curve in curves:
            np.testing.assert_array_equal(lines[curve["label"]], (curve[quantity], curve["bounds"]))
        assert axes.get_xscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    bottom, top = figure.axes[0].get_ylim()
    assert curves[0]["bounds"][0] < bottom < curves[0]["bounds"][15]
    assert top > curves[1]["bounds"][-1]


def test_validation_curves_of_very_different_length_have_a_logarithmic_axis(draw):
    curves = [_curve("long", 200, 0.1), _curve("short", 3, 0.1), _curve("without times", 150, 0.0)]
    epochs, minutes = draw(figures.save_validation_curves, curves).axes
    assert (epochs.get_xscale(), minutes.get_xscale()) == ("log", "linear")
    # A part of the short curve is visible; very few epochs have markers.
    assert epochs.get_ylim()[0] < curves[1]["bounds"][2]
    assert [line.get_marker() for line in epochs.lines] == ["", ".", ""]
    # The axis begins at the first visible epoch.
    visible = min(epoch for epoch, bound in zip(*_lines(epochs)["long"], strict=True) if bound > epochs.get_ylim()[0])
    assert epochs.get_xlim()[0] == pytest.approx(0.9 * visible)


def test_many_validation_curves_differ_in_style(draw):
    lines = draw(figures.save_validation_curves, [_curve(str(i), 20, 0.1) for i in range(13)]).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13


def test_nll_against_k(draw):
    measured = {"label": "IWAE", "published": False, "k": (1, 5), "nll": (87.0, 86.0), "sd": (0.5, np.nan)}
    published = {"label": "IWAE", "published": True, "k": (1, 50), "nll": (86.5, 84.5)}
    vae = {"label": "VAE", "published": False, "k": (5,), "nll": (88.0,), "sd": (np.nan,)}
    figure = draw(figures.save_nll_against_k, {"1 layer": [measured, published], "2 layers": [vae]})
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("1 layer", "2 layers")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["IWAE", "IWAE, published", "VAE"]
    measured_line, published_line = (container.lines[0] for container in first.containers)
    np.testing.assert_array_equal(measured_line.get_data(), ([1, 5], [87.0, 86.0]))
    np.testing.assert_array_equal(published_line.get_data(), ([1, 50], [86.5, 84.5]))
    assert (measured_line.get_linestyle(), published_line.get_linestyle()) == ("-", "--")
    # The measured points have bars of one standard deviation.
    assert [container.has_yerr for container in first.containers] == [True, False]
    (bars,) = first.containers[0].lines[2]
    np.testing.assert_array_equal(bars.get_segments()[0], [[1.0, 86.5], [1.0, 87.5]])
    np.testing.assert_array_equal(second.containers[0].lines[0].get_data(), ([5], [88.0]))
    assert first.get_xticks().tolist() == [1, 5, 50]


def test_active_units_are_stacked_bars_next_to_the_published_ones(draw):
    cells = [
        {"label": "VAE", "ours": [20.5, 5.0], "published": (16, 4)},
        {"label": "IWAE", "ours": [25.0], "published": None},
        {"label": "unknown", "ours": None, "published": (7, 2)},
    ]
    figure = draw(figures.save_active_units, cells)
    (axes,) = figure.axes
    bars = {
        container.get_label(): [
            (round(bar.get_x() + bar.get_width() / 2, 6), bar.get_y(), bar.get_height()) for bar in container
        ]
        for container in axes.containers
    }
    assert bars == {
        "ours, layer 1": [(-0.2, 0.0, 20.5), (0.8, 0.0, 25.0)],
        "ours, layer 2": [(-0.2, 20.5, 5.0)],
        "published, layer 1": [(0.2, 0.0, 16.0), (2.2, 0.0, 7.0)],
        "published, layer 2": [(0.2, 16.0, 4.0), (2.2, 7.0, 2.0)],
    }
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "20.5+5": (-0.2, 25.5),
        "25": (0.8, 25.0),
        "16+4": (0.2, 20),
        "7+2": (2.2, 9),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["VAE", "IWAE", "unknown"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(bars)


def test_active_units_of_one_layer_are_labelled_without_the_layer(draw):
    figure = draw(figures.save_active_units, [{"label": "VAE", "ours": [20.0], "published": (19,)}])
    assert [container.get_label() for container in figure.axes[0].containers] == ["ours", "published"]


LAYERS = [
    {"variances": [0.9, 0.0, 0.3, 1e-5], "kls": [2.0, -1e-6, 1.0, 0.25]},
    {"variances": [0.0, None], "kls": [0.0, None]},
]


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:1], LAYERS[1:]])
def test_the_units_of_each_layer_have_a_row(layers, draw):
    figure = draw(figures.save_units, layers, 0.01, "a title")
    assert len(figure.axes) == 3 * len(layers)
    for number, layer in enumerate(layers):
        histogram, counts, kls = figure.axes[3 * number : 3 * number + 3]
        num_units = len(layer["variances"])
        assert sum(bar.get_height() for bar in histogram.patches) == num_units
        assert histogram.get_ylabel() == f"layer {number + 1}: units"
        assert len(kls.patches) == num_units + 2  # Two are empty bars for the legend.
        assert counts.lines[0].get_ydata()[0] == num_units
    assert figure.get_suptitle() == "a title"


def test_the_variances_counts_and_kls_of_units(draw):
    histogram, counts, kls = draw(figures.save_units, LAYERS[:1], 0.01, "a title").axes
    assert histogram.lines[0].get_xdata()[0] == -2.0  # log10 of the threshold.
    steps, threshold, point = (line.get_data() for line in counts.lines)
    np.testing.assert_allclose(steps[0][1:-1], [1e-12, 1e-5, 0.3, 0.9])
    np.testing.assert_array_equal(steps[1], [4, 3, 2, 1, 0, 0])
    assert threshold[0][0] == 0.01
    assert (point[0].item(), point[1].item()) == (0.01, 2)
    assert _legend(counts) == ["2 of 4 active"]
    np.testing.assert_allclose([bar.get_height() for bar in kls.patches[:4]], [2.0, 1.0, 0.25, -1e-6])
    active, inactive = _color(style.BLUE), _color(style.SILVER)
    assert [bar.get_facecolor() for bar in kls.patches[:4]] == [active, active, inactive, inactive]
    assert _legend(kls) == ["active: 3.00 nats", "not: 0.25 nats"]


@pytest.mark.parametrize("count", [1, 4])
def test_traversals_show_each_image_above_its_grid(count, draw):
    rng = np.random.default_rng(0)
    images, pixels = rng.uniform(size=(count, 6, 5)), rng.uniform(size=(count, 2, 11, 6, 5))
    figure = draw(figures.save_traversal, images, ["u", "v"], latents.STDDEVS, pixels)
    assert len(figure.axes) == 2 * count
    for i, (above, below) in enumerate(zip(figure.axes[:count], figure.axes[count:], strict=True)):
        np.testing.assert_array_equal(above.images[0].get_array(), images[i])
        grid = below.images[0].get_array()
        assert grid.shape == (2 * 7 + 1, 11 * 6 + 1)
        np.testing.assert_array_equal(grid[8:14, 6 * 10 + 1 : 6 * 10 + 6], pixels[i, 1, 10])
        row_labels = [label.get_text() for label in below.get_yticklabels() if label.get_text()]
        assert row_labels == (["u", "v"] if i == 0 else [])
        assert [label.get_text() for label in below.get_xticklabels()][::5] == ["-3.0", "0", "+3.0"]


@pytest.mark.parametrize("count", [1, 4])
def test_posteriors_show_the_density_and_the_ellipses_of_q(count, draw):
    images = np.random.default_rng(0).uniform(size=(count, 6, 5))
    # Different standard deviations, so a transposed axis would be noticed.
    first, second = np.meshgrid(np.linspace(-6.0, 6.0, 50), np.linspace(-9.0, 9.0, 50), indexing="ij")
    density = np.exp(-0.5 * (first**2 + (second / 2.0) ** 2)) / (4.0 * np.pi)
    low, high = np.array([-6.0, -9.0]), np.array([6.0, 9.0])
    posterior = latents.Posterior(low, high, density, -3.0, -4.5, np.array([1.0, 0.0]), np.array([0.5, 0.1]))
    figure = draw(figures.save_posteriors, images, count * [posterior], "a title")
    assert "a title" in figure.get_suptitle()
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == count
    for axes, image in zip(panels, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), density.T)
        assert axes.images[0].get_extent() == [-6.0, 6.0, -9.0, 9.0]
        for radius, line in zip((1.0, 2.0, 3.0), axes.lines, strict=True):
            x, y = line.get_data()
            np.testing.assert_allclose(np.square((x - 1.0) / 0.5) + np.square(y / 0.1), radius**2)
        assert "KL(q || p) 1.50 nats" in axes.get_title()
        # The outermost contour, three standard deviations away, is visible.
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        assert left < -3.0 < 3.0 < right
        assert bottom < -6.0 < 6.0 < top
        (corner,) = axes.child_axes
        np.testing.assert_array_equal(corner.images[0].get_array(), image)
