import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import export, importance, models, networks, noise, training

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
    expected = importance.importance_bounds(model, x, tf.range(5), [[0, 40]], SEED).bounds[0]
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
    np.testing.assert_allclose(outputs["samples"], model.sampled(6, SEED).mean(), atol=1e-5)
    np.testing.assert_allclose(outputs["reconstructions"], model.reconstructed(x[:2], SEED).mean(), atol=1e-5)


@pytest.mark.slow
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
    assert np.any(outputs["samples"] != model.sampled(6, noise.key(0, "other")).mean().numpy())


@pytest.fixture(scope="module")
def saved(exported):
    return tf.saved_model.load(str(exported[-1] / "saved_model"))


def _likelihood(saved, x, num_samples=40, **ids):
    signature = saved.signatures["log_likelihood_by_id" if ids else "log_likelihood"]
    return signature(x=tf.constant(x), num_samples=tf.constant(num_samples), seed=SEED, **ids)["log_likelihood"]


def test_the_log_likelihood_by_id_does_not_depend_on_the_batch(exported, saved):
    _, x, outputs, _ = exported
    alone = _likelihood(saved, x[3:4], image_ids=tf.constant([3]))
    np.testing.assert_allclose(alone, outputs["likelihood"][3:4], rtol=1e-6)
    assert abs(_likelihood(saved, x[3:4]).numpy()[0] - alone[0]) > 1e-3


@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 3, 4, 1)])
def test_images_of_any_shape_are_accepted(exported, saved, shape):
    _, x, outputs, _ = exported
    np.testing.assert_allclose(_likelihood(saved, x.reshape(shape)), outputs["likelihood"], rtol=1e-6)
    encoded = saved.signatures["encode"](x=tf.constant(x.reshape(shape)), seed=SEED)
    np.testing.assert_allclose(encoded["mean"], outputs["mean"], rtol=1e-5)


def test_signatures_refuse_bad_input_in_words(exported, saved):
    x = exported[1]
    for arguments, message in (
        ((x, 0), r"num_samples is\] \[0\] \[, but must be at least 1"),
        ((x, -3), "must be at least 1"),
        ((0.5 * x,), r"p\(x \| z\) is Bernoulli"),
        ((np.where(x > 0.5, x, np.nan),), "not numbers"),
        ((x[:, :7],), r"shape\] \[5 7\] \[, but must have 12 values each"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            _likelihood(saved, *arguments)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_ids has"):
        _likelihood(saved, x, image_ids=tf.constant([1]))
    for name in ("encode", "reconstruct"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Bernoulli"):
            saved.signatures[name](x=tf.constant(0.5 * x), seed=SEED)
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_images is"):
        saved.signatures["sample"](num_images=tf.constant(0), seed=SEED)


def test_posterior_signature(exported, saved):
    model, x, _, _ = exported
    outputs = saved.signatures["posterior"](x=tf.constant(x))
    assert sorted(outputs) == ["mean_1", "mean_2", "stddev_1", "stddev_2"]
    for layer, q in enumerate(model.mean_path(tf.constant(x)), start=1):
        mean = tf.reshape(q.mean(), outputs[f"mean_{layer}"].shape)
        np.testing.assert_allclose(outputs[f"mean_{layer}"], mean, atol=1e-6)
        assert outputs[f"stddev_{layer}"].shape == (5, (4, 2)[layer - 1])


def test_the_gradient_by_x_of_the_saved_model(exported, saved):
    model, x, _, _ = exported
    gradients = []
    for value in (
        lambda x: saved.signatures["log_likelihood"](x=x, num_samples=tf.constant(40), seed=SEED)["log_likelihood"],
        lambda x: importance.importance_bounds(model, x, tf.range(5), [[0, 40]], SEED).bounds[0],
    ):
        images = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(value(images))
        gradients.append(tf.convert_to_tensor(tape.gradient(total, images)))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)
    assert np.abs(gradients[0]).max() > 0.1


def test_a_module_with_the_loaded_model_can_be_saved(exported, tmp_path):
    _, x, outputs, folder = exported

    class Server(tf.Module):
        def __init__(self):
            super().__init__()
            self.saved = tf.saved_model.load(str(folder / "saved_model"))

        @tf.function(input_signature=[tf.TensorSpec([None, EVENT])])
        def serve(self, x):
            return self.saved.signatures["log_likelihood"](x=x, num_samples=tf.constant(40), seed=SEED)

    server = Server()
    tf.saved_model.save(server, str(tmp_path / "server"), signatures=server.serve)
    served = tf.saved_model.load(str(tmp_path / "server")).signatures["serving_default"]
    np.testing.assert_allclose(served(x=tf.constant(x))["log_likelihood"], outputs["likelihood"], rtol=1e-5)


@pytest.mark.parametrize("name", ["posterior", "decode"])
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_signatures_without_randomness_convert_to_tensorflow_lite(exported, saved, name):
    _, x, outputs, folder = exported
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"), signature_keys=[name])
    runner = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner(name)
    inputs = {"posterior": {"x": x}, "decode": {"z": outputs["z_1"]}}[name]
    expected = saved.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    for key, value in runner(**inputs).items():
        np.testing.assert_allclose(value, expected[key], atol=1e-5)
