import sys
import types

import numpy as np
import pytest
import small_model
import tensorflow as tf

from iwae_tf.evaluation import embedding


@pytest.mark.parametrize("inference", ["bottom_up", "ladder"])
def test_posterior_means_do_not_depend_on_the_pieces(inference, monkeypatch):
    model = small_model.build(latent_dims=(3, 2), inference=inference)
    x, _, _ = small_model.data()
    model(tf.constant(x))
    expected = [q.mean().numpy().reshape(11, -1) for q in model.mean_path(tf.constant(x))]
    monkeypatch.setattr(embedding, "_ROWS_PER_CALL", 4)
    means = embedding.posterior_means(model, x)
    assert [layer.shape for layer in means] == [(11, 3), (11, 2)]
    for layer, values in zip(means, expected, strict=True):
        np.testing.assert_allclose(layer, values, atol=1e-6)


def test_principal_components():
    """Points on a line in the direction (1, 2, -2), which has length 3, and a little across it."""
    along, across = np.array([-2.0, -1.0, 0.0, 3.0]), np.array([0.1, -0.1, 0.1, -0.1])
    values = along[:, np.newaxis] * [1.0, 2.0, -2.0] + across[:, np.newaxis] * [0.0, 1.0, 1.0] + 5.0
    first, second = embedding.principal_components(values).T
    np.testing.assert_allclose(np.abs(first), 3.0 * np.abs(along), atol=0.05)
    assert np.abs(second).max() < 0.2
    np.testing.assert_array_equal(embedding.principal_components(values[:, :1])[:, 1], 0.0)


def test_tsne_keeps_clusters_apart_and_is_the_same_on_every_call():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(20, 4)), rng.normal(size=(20, 4)) + 20.0])
    points = embedding.embeddings(values)
    assert list(points) == ["PCA", "t-SNE"]
    one, other = np.split(points["t-SNE"], 2)
    distance = np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))
    assert distance > 3.0 * max(one.std(), other.std())
    np.testing.assert_array_equal(points["t-SNE"], embedding.embeddings(values)["t-SNE"])


def test_umap_has_precedence_and_nothing_has_to_be_installed(monkeypatch):
    class Umap:
        def __init__(self, **_):
            pass

        def fit_transform(self, values):
            return values[:, :2]

    values = np.random.default_rng(0).normal(size=(30, 3))
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    np.testing.assert_array_equal(embedding.embeddings(values)["UMAP"], values[:, :2])
    for name in ("umap", "sklearn.manifold"):
        monkeypatch.setitem(sys.modules, name, None)
    assert list(embedding.embeddings(values)) == ["PCA"]


@pytest.mark.parametrize("values", [np.ones([30, 3]), np.zeros([5, 3]), np.zeros([1, 1])])
def test_points_without_neighbourhoods(values):
    points = embedding.embeddings(values)
    assert list(points) == ["PCA"]
    np.testing.assert_array_equal(points["PCA"], np.zeros([len(values), 2]))
