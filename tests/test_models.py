import itertools

import keras
import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import BATCH, LATENT_DIMS, NUM_SAMPLES, assert_mean

from iwae_tf import bounds, layers, models, networks, noise


def _paper_model(num_layers=2, **kwargs):
    inference, generative = networks.paper_networks(
        13, latent_dims=(4, 3, 2)[:num_layers], hidden_dims=((9, 8), (7, 6), (5,))[:num_layers], seed=3
    )
    model = models.ImportanceWeightedAutoencoder(inference, generative, **kwargs)
    model(tf.zeros([1, 13]))
    return model


def _binary(batch=BATCH):
    return tf.constant(np.random.default_rng(2).integers(0, 2, (batch, 13)), tf.float32)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_with_the_exact_posterior_every_log_weight_is_log_p(num_layers):
    model, log_p = linear_gaussian.build(num_layers)
    x = linear_gaussian.data()
    log_weights = model.log_weights(x, NUM_SAMPLES, noise.key(0, "test"))
    assert log_weights.shape == (NUM_SAMPLES, BATCH)
    np.testing.assert_allclose(log_weights, np.tile(log_p(x), (NUM_SAMPLES, 1)), atol=2e-5)
    np.testing.assert_allclose(bounds.effective_sample_size(log_weights), NUM_SAMPLES, rtol=1e-4)


def test_the_elbo_of_a_wider_proposal_is_the_closed_form():
    """log p(x) - ELBO = KL(q || posterior), which for equal means and scales times c is d (c^2 - 1 - log c^2) / 2."""
    widen = 1.5
    model, log_p = linear_gaussian.build(1, widen=widen)
    x = linear_gaussian.data()
    gap = LATENT_DIMS[0] * (widen**2 - 1.0 - np.log(widen**2)) / 2.0
    log_weights = model.log_weights(x, 20_000, noise.key(0, "test"))
    assert_mean(log_weights, log_p(x) - gap)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_bound_grows_with_k_and_stays_below_log_p(num_layers):
    model, log_p = linear_gaussian.build(num_layers, widen=1.6)
    x = linear_gaussian.data()
    log_weights = model.log_weights(x, 40_000, noise.key(1, "test")).numpy()
    previous = None
    for k in (1, 4, 16, 64):
        groups = log_weights.reshape(-1, k, BATCH)
        samples = bounds.iwae_bound(tf.transpose(groups, [1, 0, 2])).numpy()
        mean, stderr = samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
        assert np.all(mean < log_p(x) + 4.0 * stderr)
        if previous is not None:
            assert np.all(mean > previous)
        previous = mean
    assert np.all(log_p(x) - previous < 0.1)


def _dense(inputs, layer):
    return inputs @ layer.kernel.numpy().astype(np.float64) + layer.bias.numpy()


def _hidden(inputs, layer):
    for dense in layer.hidden:
        inputs = np.tanh(_dense(inputs, dense))
    return inputs


def _gaussian(inputs, layer):
    hidden = _hidden(inputs, layer)
    return _dense(hidden, layer.loc), np.exp(_dense(hidden, layer.log_scale))


def _log_normal(z, loc, scale):
    return np.sum(-0.5 * np.log(2.0 * np.pi) - np.log(scale) - 0.5 * ((z - loc) / scale) ** 2, axis=-1)


def test_log_weights_of_the_paper_networks_agree_with_numpy():
    """The reference computes equations (1) to (3) of the paper in float64."""
    model = _paper_model(2)
    for variable in model.trainable_variables:  # Biases start at zero, which would hide errors.
        variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, [0, 1]))
    x = _binary()
    epsilon = model.draw_epsilon(NUM_SAMPLES, BATCH, noise.key(0, "test"))

    q1, q2 = model.inference.stochastic_layers
    p_x, p_z1 = model.generative.conditionals
    loc1, scale1 = _gaussian(x.numpy().astype(np.float64), q1)
    z1 = loc1 + scale1 * epsilon[0].numpy()
    loc2, scale2 = _gaussian(z1, q2)
    z2 = loc2 + scale2 * epsilon[1].numpy()
    logits = _dense(_hidden(z1, p_x), p_x.logits)
    log_p_x = np.sum(x.numpy() * logits - np.log1p(np.exp(logits)), axis=-1)
    log_p = log_p_x + _log_normal(z1, *_gaussian(z2, p_z1)) + _log_normal(z2, 0.0, 1.0)
    expected = log_p - _log_normal(z1, loc1, scale1) - _log_normal(z2, loc2, scale2)

    np.testing.assert_allclose(model.log_weight_terms(x, epsilon).log_weights, expected, atol=1e-4)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_log_weight_terms_have_the_right_shapes_and_sum_to_the_log_weights(num_layers):
    model = _paper_model(num_layers)
    terms = model.log_weight_terms(_binary(), model.draw_epsilon(NUM_SAMPLES, BATCH, noise.key(0, "test")))
    for term in (terms.log_p_x_given_z, *terms.log_p_z, *terms.log_q_z_given_x):
        assert term.shape == (NUM_SAMPLES, BATCH)
    assert len(terms.log_p_z) == len(terms.log_q_z_given_x) == num_layers
    elbo = bounds.elbo(terms.log_weights)
    distortion = -np.mean(terms.log_p_x_given_z, axis=0)
    np.testing.assert_allclose(elbo, -distortion - np.sum(terms.layer_rates, axis=0), rtol=1e-5)


def test_calling_the_model_returns_the_bound_of_its_objective():
    iwae, vae = (_paper_model(2, objective=objective, num_samples=9) for objective in ("iwae", "vae"))
    x = _binary()
    assert iwae(x).shape == (BATCH,)
    assert np.all(iwae(x).numpy() > vae(x).numpy())


def test_train_step_reports_the_bound_of_the_weights_before_the_step():
    model = _paper_model(2, num_samples=NUM_SAMPLES, seed=5)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    x = _binary()
    expected = bounds.iwae_bound(model.log_weights(x, NUM_SAMPLES, noise.key(5, "training", 0)))
    measured = {name: float(value) for name, value in model.train_step(x).items()}
    np.testing.assert_allclose(measured["iwae_bound"], np.mean(expected), rtol=1e-6)
    assert measured["rate"] == pytest.approx(measured["rate_layer_1"] + measured["rate_layer_2"], rel=1e-5)
    assert measured["elbo"] == pytest.approx(-measured["distortion"] - measured["rate"], rel=1e-5)


def test_plain_keras_fit_trains_the_model():
    """On a tf.data pipeline of x, as with any other Keras model."""
    model = _paper_model(1, num_samples=5)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.from_tensors(_binary(50)).repeat(40)
    before = np.mean(model(_binary(50)))
    model.fit(data, epochs=1, verbose=0, shuffle=False)
    assert np.mean(model(_binary(50))) > before + 0.5


def test_the_model_refuses_wrong_arguments():
    inference, generative = networks.paper_networks(13)
    for wrong, message in (
        ({"objective": "elbo"}, "must be one of iwae, vae"),
        ({"gradient_estimator": "none"}, "must be one of standard, stl"),
        ({"num_samples": 0}, "at least 1"),
        ({"num_samples": 5.0}, "num_samples is 5.0, but must be an integer"),
        ({"seed": -1}, "seed is -1, but must be an integer, from 0"),
        ({"beta_warmup_steps": 1.5}, "beta_warmup_steps is 1.5"),
        ({"objective": ["miwae", 5]}, "must be a name, or an objective with parameters"),
        (
            {"gradient_estimator": "resampled", "num_samples": 5, "num_resampled": 6},
            "from 1 to num_samples, 5",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            models.ImportanceWeightedAutoencoder(inference, generative, **wrong)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_paper_networks_have_the_hidden_layers_of_the_paper_by_default(num_layers):
    inference, generative = networks.paper_networks(784, (100, 50, 25)[:num_layers])
    widths = [[dense.units for dense in layer.hidden] for layer in inference.stochastic_layers]
    assert widths == [[200, 200], [100, 100], [100, 100]][:num_layers]
    assert [[dense.units for dense in layer.hidden] for layer in generative.conditionals] == widths
    assert [layer.units for layer in generative.conditionals] == [784, 100, 50][:num_layers]
    assert inference.latent_dims == [100, 50, 25][:num_layers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inference": "top_down"}, "inference is 'top_down', but must be one of bottom_up, ladder"),
        ({"latent_dims": 50}, "latent_dims is 50, but must be positive integers, such as"),
        ({"latent_dims": ()}, r"latent_dims is \(\), but must be positive integers"),
        ({"latent_dims": (100, 0)}, r"latent_dims is \(100, 0\), but must be positive integers"),
        ({"hidden_dims": (200, 200)}, r"hidden_dims is \(200, 200\), but must be one sequence of widths per"),
        ({"hidden_dims": ((200, -1),)}, r"hidden_dims is \(\(200, -1\),\), but must be one sequence"),
        (
            {"latent_dims": (100, 50), "hidden_dims": ((200, 200),)},
            r"per stochastic layer of latent_dims=\(100, 50\), such as \(\(200, 200\), \(100, 100\)\)\.",
        ),
    ],
)
def test_paper_networks_refuse_wrong_arguments_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        networks.paper_networks(784, **arguments)
    assert "\n" not in str(error.value)


def test_samples_and_reconstructions_have_the_right_shapes_and_depend_on_the_key():
    model = _paper_model(3)
    samples = model.sampled(6, noise.key(0, "test")).mean()
    assert samples.shape == (6, 13)
    np.testing.assert_array_equal(samples, model.sampled(6, noise.key(0, "test")).mean())
    assert np.any(samples != model.sampled(6, noise.key(1, "test")).mean())
    assert model.reconstructed(_binary(), noise.key(0, "test")).mean().shape == (BATCH, 13)


def test_samples_of_the_linear_gaussian_model_have_the_exact_entropy():
    """With 3 layers, where p(x) is a Gaussian with known mean and covariance."""
    model, log_p = linear_gaussian.build(3)
    x = model.sampled(50_000, noise.key(0, "test")).sample(seed=1)
    entropy = -log_p(x)  # The mean is the differential entropy of p(x) only if x comes from p(x).
    assert_mean(entropy, -_mean_log_p(model))


def _mean_log_p(model):
    covariance = np.eye(LATENT_DIMS[2])
    for layer in reversed(model.generative.conditionals):
        matrix = layer.matrix.numpy().astype(np.float64)
        covariance = matrix.T @ covariance @ matrix + np.diag(np.exp(2.0 * layer.log_scale.numpy().astype(np.float64)))
    return -0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * covariance)[1]


def test_beta_weights_the_kl_terms_and_leaves_the_log_weights_unchanged():
    terms = models.LogWeightTerms(tf.constant([[-5.0]]), [tf.constant([[-2.0]])], [tf.constant([[-1.0]])])
    assert float(terms.log_weights[0, 0]) == -6.0
    assert float(terms.log_weights_at(0.25)[0, 0]) == -5.25


def _ladder(**kwargs):
    inference, generative = networks.paper_networks(
        7, (4, 3, 2), ((6,), (5,), (4,)), inference="ladder", output_bias=np.linspace(-1.0, 1.0, 7), **kwargs
    )
    model = models.ImportanceWeightedAutoencoder(inference, generative, num_samples=5)
    model(tf.zeros([1, 7]))
    return model, (np.random.default_rng(0).random([6, 7]) < 0.5).astype(np.float32)


def test_the_ladder_samples_from_the_distributions_that_it_returns():
    model, x = _ladder()
    epsilon = model.draw_epsilon(5, 6, noise.key(0, "test"))
    z, q = model.inference(x, epsilon)
    at_samples = model.inference.distributions(x, z)
    assert [sample.shape for sample in z] == [(5, 6, 4), (5, 6, 3), (5, 6, 2)]
    for q_l, q_l_at_samples, z_l, epsilon_l in zip(q, at_samples, z, epsilon, strict=True):
        np.testing.assert_allclose(q_l.mean() + q_l.stddev() * epsilon_l, z_l, atol=1e-5)
        np.testing.assert_allclose(q_l_at_samples.log_prob(z_l), q_l.log_prob(z_l), atol=1e-4)


def test_the_ladder_merges_by_precision():
    first = layers.DiagonalNormal(tf.constant([[1.0, 2.0]]), tf.constant([[0.5, 1.0]]))
    second = layers.DiagonalNormal(tf.constant([[[3.0, -2.0]]]), tf.constant([[[1.0, 1.0]]]))
    merged = layers.precision_weighted(first, second)
    np.testing.assert_allclose(merged.mean(), [[[(4.0 * 1.0 + 3.0) / 5.0, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(merged.variance(), [[[1.0 / 5.0, 0.5]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("scales", "loc", "scale"),
    [
        ((1e-25, 1e-25), 1.0, 1e-25 / np.sqrt(2.0)),
        ((1e-25, 1.0), 3.0, 1e-25),
        ((1e20, 1e-15), -1.0, 1e-15),
    ],
)
def test_the_ladder_merges_very_small_and_very_large_scales(scales, loc, scale):
    """The squares are zero or infinite in single precision, but the merged Gaussian and its gradients are finite."""
    scales = tf.constant(scales)
    with tf.GradientTape() as tape:
        tape.watch(scales)
        first = layers.DiagonalNormal(tf.constant([3.0]), scales[:1])
        merged = layers.precision_weighted(first, layers.DiagonalNormal(tf.constant([-1.0]), scales[1:]))
        total = merged.mean() + merged.stddev()
    np.testing.assert_allclose(merged.mean(), [loc], rtol=1e-5)
    np.testing.assert_allclose(merged.stddev(), [scale], rtol=1e-5)
    assert np.isfinite(tape.gradient(total, scales)).all()


def test_the_ladder_shares_the_generative_layers_and_their_weights_count_once():
    model, _ = _ladder()
    assert model.inference.conditionals[0] is model.generative.conditionals[1]
    assert len({id(variable) for variable in model.trainable_variables}) == len(model.trainable_variables)
    shared = {id(v) for v in model.inference.trainable_variables} & {
        id(v) for v in model.generative.trainable_variables
    }
    assert len(shared) == sum(len(layer.trainable_variables) for layer in model.inference.conditionals)


def test_the_importance_weights_of_the_ladder_are_unbiased():
    """E[w] = p(x) for every x and every proposal, so the sum over all 2^7 images is one."""
    model, _ = _ladder()
    all_images = np.array(list(itertools.product([0.0, 1.0], repeat=7)), np.float32)
    draw = tf.function(lambda key: tf.reduce_sum(tf.exp(bounds.iwae_bound(model.log_weights(all_images, 50, key)))))
    totals = np.array([draw(noise.key(i, "test")) for i in range(200)])
    assert abs(totals.mean() - 1.0) < 4.5 * totals.std(ddof=1) / np.sqrt(200)


def test_batch_normalisation_uses_the_batch_in_training_and_moving_averages_otherwise():
    model, x = _ladder(batch_norm=True)
    epsilon = model.draw_epsilon(5, 6, noise.key(0, "test"))
    moving = [v for v in model.non_trainable_variables if "moving_mean" in v.path]
    before = [v.numpy() for v in moving]
    trained = model.log_weight_terms(x, epsilon, training=True).log_weights
    assert all(np.any(v.numpy() != old) for v, old in zip(moving, before, strict=True))
    halves = [
        model.log_weight_terms(x[i : i + 3], [epsilon_l[:, i : i + 3] for epsilon_l in epsilon]).log_weights
        for i in (0, 3)
    ]
    measured = model.log_weight_terms(x, epsilon).log_weights
    np.testing.assert_allclose(tf.concat(halves, axis=1), measured, atol=1e-4)
    assert np.max(np.abs(trained - measured)) > 1e-2


def test_batch_normalisation_refuses_estimators_that_need_independent_samples():
    pair = networks.paper_networks(7, (4,), ((6,),), batch_norm=True)
    with pytest.raises(ValueError, match="couples"):
        models.ImportanceWeightedAutoencoder(*pair, gradient_estimator="dreg")
