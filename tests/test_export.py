import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import export, models, networks, noise, training
from iwae_tf.evaluation import log_likelihood

EVENT = 12
LOADER = """
import sys
import numpy as np
import tensorflow as tf
saved = tf.saved_model.load(sys.argv[1])
x = tf.constant(np.load(sys.argv[2]))
seed = tf.constant([3, 4])
call = lambda name, **inputs: saved.signatures[name](**inputs)
likelihood = call("log_likelihood", x=x, num_samples=tf.constant(40), seed=seed)["log_likelihood"]
encoded = call("encode", x=x, seed=seed)
decoded = call("decode", z=encoded["z_1"])
np.savez(sys.argv[3], likelihood=likelihood, **encoded, **decoded,
         samples=call("sample", num_images=tf.constant(6), seed=seed)["probabilities"],
         reconstructions=call("reconstruct", x=x[:2], seed=seed)["probabilities"])
assert not {"iwae_tf", "tensorflow_probability", "tf_keras"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns a model, x, the outputs of its SavedModel in a process without iwae_tf, and the folder."""
    folder = tmp_path_factory.mktemp("export")
    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(EVENT, (4, 2), ((6,), (5,)), seed=1))
    x = np.random.default_rng(0).integers(0, 2, (5, EVENT)).astype(np.float32)
    training.prepare(model, training.Plan())
    export.export(model, folder / "saved_model")
    np.save(folder / "x.npy", x)
    command = [sys.executable, "-c", LOADER, folder / "saved_model", folder / "x.npy", folder / "out.npz"]
    subprocess.run(command, check=True, cwd=folder)
    with np.load(folder / "out.npz") as outputs:
        return model, x, dict(outputs), folder


SEED = tf.constant([3, 4])


def test_log_likelihood_signature(exported):
    model, x, outputs, _ = exported
    expected = log_likelihood.importance_bounds(model, x, tf.range(5), [[0, 40]], SEED).bounds[0]
    np.testing.assert_allclose(outputs["likelihood"], expected, atol=1e-4)


def test_encode_signature(exported):
    model, x, outputs, _ = exported
    samples, q = model.inference(x, model.draw_epsilon(1, 5, SEED))
    np.testing.assert_allclose(outputs["mean"], q[0].mean(), atol=1e-5)
    np.testing.assert_allclose(outputs["stddev"], q[0].stddev(), atol=1e-5)
    np.testing.assert_allclose(outputs["z_1"], samples[0][0], atol=1e-5)
    np.testing.assert_allclose(outputs["z_2"], samples[1][0], atol=1e-5)


def test_decode_signature(exported):
    model, _, outputs, _ = exported
    np.testing.assert_allclose(outputs["probabilities"], model.generative.decode(outputs["z_1"]).mean(), atol=1e-5)
    np.testing.assert_allclose(tf.sigmoid(outputs["logits"]), outputs["probabilities"], atol=1e-5)


def test_sample_and_reconstruct_signatures(exported):
    model, x, outputs, _ = exported
    np.testing.assert_allclose(outputs["samples"], model.sample(6, SEED).mean(), atol=1e-5)
    np.testing.assert_allclose(outputs["reconstructions"], model.reconstruct(x[:2], SEED).mean(), atol=1e-5)


def test_a_second_export_replaces_the_folder(exported):
    model, _, _, folder = exported
    (folder / "saved_model" / "old").write_text("")
    export.export(model, folder / "saved_model")
    assert not (folder / "saved_model" / "old").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["out.npz", "saved_model", "x.npy"]


def test_the_saved_model_contains_no_optimizer_variables(exported):
    _, _, _, folder = exported
    names = [name for name, _ in tf.train.list_variables(str(folder / "saved_model" / "variables" / "variables"))]
    assert not [name for name in names if "optimizer" in name]


def test_samples_depend_on_the_seed(exported):
    model, _, outputs, _ = exported
    assert np.any(outputs["samples"] != model.sample(6, noise.key(0, "other")).mean().numpy())
