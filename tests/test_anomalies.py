"""Scores of anomalies, on MNIST and on other images, and images with few levels."""

import json
import pathlib

import numpy as np
import pytest
import sklearn.datasets
import sklearn.metrics

from iwae_tf import datasets, main, score

OMNIGLOT = pathlib.Path(__file__).parents[2] / "shared" / "data" / "omniglot28_by_drawing.npz"
NUM_IMAGES = 300


def _area(normal, other):
    """The area under the ROC curve of a score that should be larger for the first."""
    labels = np.concatenate([np.ones(len(normal)), np.zeros(len(other))])
    return sklearn.metrics.roc_auc_score(labels, np.concatenate([normal, other]))


@pytest.mark.slow
def test_other_images_than_digits_have_low_scores(tmp_path):
    run_dir = tmp_path / "run"
    main.main(["main", "--k=5", "--epochs=10", "--noevaluate", "--noexport", f"--run_dir={run_dir}"])
    test = datasets.load("mnist").test[:NUM_IMAGES]
    images = {"digits": test, "inverted": 255 - test, "black": np.zeros_like(test[:20])}
    if OMNIGLOT.exists():
        drawings = np.load(OMNIGLOT)["test"]
        images["omniglot"] = drawings[:: len(drawings) // NUM_IMAGES][:NUM_IMAGES].reshape(-1, 784)
    scores = {}
    for name, stack in images.items():
        np.save(tmp_path / f"{name}.npy", stack)
        words = [f"--run_dir={run_dir}", f"--data={tmp_path / name}.npy", "--num_samples=300"]
        score.main(["score", *words, f"--output={tmp_path / name}.npz"])
        scores[name] = np.load(tmp_path / f"{name}.npz")
    for name in set(images) - {"digits"}:
        assert _area(scores["digits"]["log_ratio"], scores[name]["log_ratio"]) > 0.99, name
    assert _area(scores["digits"]["log_likelihood"], scores["inverted"]["log_likelihood"]) > 0.99
    # What log p(x) alone gets wrong.
    assert _area(scores["digits"]["log_likelihood"], scores["black"]["log_likelihood"]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_digits_of_17_levels(tmp_path, network):
    np.save(tmp_path / "digits.npy", sklearn.datasets.load_digits().images.astype(np.uint8))
    run_dir = tmp_path / "run"
    data = [f"--dataset=npy:{tmp_path / 'digits.npy'}", "--likelihood=discretized_logistic", "--num_levels=17"]
    size = ["--latent_dims=5", "--hidden_dims=30", f"--network={network}", "--k=2", "--epochs=4", "--batch_size=50"]
    size += ["--channels=8"] * (network == "conv")
    main.main(["main", *data, *size, "--nll_samples=50", "--nojit", "--noexport", f"--run_dir={run_dir}"])
    results = json.loads((run_dir / "results.json").read_text())
    bits = results["bits_per_dimension"]
    np.testing.assert_allclose(bits * 64 * np.log(2.0), results["nll"]["mean"])
    # A uniform distribution needs log2(17) = 4.09 bits.
    assert 1.5 < bits < 3.5
