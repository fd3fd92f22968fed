"""`fit`, `evaluate`, `predict` and callbacks: the model as a `keras.Model`."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_model
import tensorflow as tf
from small_model import EVENT, assert_same_weights

from iwae_tf import execution, layers, models, networks, noise

X, Y, W = small_model.data()
ARGUMENTS = {"batch_size": 4, "shuffle": False, "verbose": 0}


def _dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(4)


def _batches(*parts):
    for i in range(0, len(X), 4):
        yield tuple(part[i : i + 4] for part in parts)


def _fit(x, **kwargs):
    model = small_model.compiled()
    arguments = {"verbose": 0} if not isinstance(x, np.ndarray) else ARGUMENTS
    model.fit(x, **{**arguments, **kwargs})
    return model


@pytest.fixture(scope="module")
def fitted():
    """A model after one epoch of X in batches of 4, the last of 3."""
    return _fit(X)


@pytest.fixture(scope="module")
def untrained():
    """A model for tests that fail before its first step."""
    return small_model.compiled()


@pytest.fixture(scope="module")
def weighted():
    return _fit(X, sample_weight=W)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": X > 0.5, "y": Y},
        {"x": _dataset(X.astype(np.float64))},
        {"x": _dataset(X.astype(np.uint8), X)},
        {"x": tf.data.Dataset.from_tensor_slices((X,)).batch(4)},
        {"x": tf.data.Dataset.from_tensor_slices((X, Y, np.ones(len(X)))).batch(4)},
    ],
    ids=["bool and labels", "float64", "(uint8, x)", "(x,)", "(x, y, ones)"],
)
def test_fit_accepts_what_autoencoders_are_given(arguments, fitted):
    assert_same_weights(_fit(**arguments), fitted)


@pytest.mark.parametrize("parts", [(X,), (X, Y)])
@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:.shuffle=True. was passed")
def test_fit_accepts_generators(parts, fitted):
    assert_same_weights(_fit(_batches(*parts)), fitted)


def test_fit_weighs_the_images(fitted, weighted):
    assert np.any(weighted.weights[0] != fitted.weights[0])
    assert_same_weights(_fit(_dataset(X, Y, W[:, np.newaxis])), weighted)


@pytest.mark.slow
def test_fit_weighs_classes():
    by_class = _fit(X, y=Y, class_weight={0: 0.5, 1: 1.0, 2: 2.0})
    assert_same_weights(by_class, _fit(X, sample_weight=np.float32(0.5) * 2.0**Y))


def test_a_batch_that_counts_half_moves_the_model_as_half_its_gradient():
    model = small_model.compiled()
    full, half = (model.gradients(tf.constant(X), sample_weight=w)[1] for w in (None, tf.fill([len(X)], 0.5)))
    for a, b in zip(full, half, strict=True):
        np.testing.assert_allclose(0.5 * a, b, rtol=1e-6)


GREY = np.where(np.arange(len(X))[:, np.newaxis] < 8, X, 0.5 * X)
NAN = np.where(X > 0.5, X, np.nan)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (0.5 * X, r"values from 0(\.0)? to 0.5, but p\(x \| z\) is Bernoulli"),
        (_dataset(GREY), "binarise grey images"),
        (_dataset(255 * X.astype(np.uint8)), "values from 0 to 255, but"),
        (tf.data.Dataset.from_tensor_slices((GREY,)).batch(4), "binarise"),
        (_dataset(GREY, Y), "binarise"),
        (NAN, "not numbers"),
        (_dataset(NAN), "not numbers"),
        (X.reshape(-1, 2, 4), r"shape \(None, 2, 4\), but must be one tensor of shape \[batch, 8\]"),
        (_dataset(X[:, :5]), r"shape \(None, 5\), but"),
        (tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).batch(4), "a dict with 'image', 'label', but"),
        (tf.data.Dataset.from_tensor_slices(X.astype(str)).batch(4), "the type string"),
        (tf.data.Dataset.from_tensor_slices(((X, X), Y)).batch(4), "are a tuple, but must be one tensor"),
    ],
)
def test_fit_refuses_other_images_in_one_sentence(x, message, untrained):
    with pytest.raises(ValueError, match=message) as error:
        untrained.fit(x, verbose=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [(GREY,), (GREY, Y)])
def test_fit_refuses_grey_images_of_generators(parts, untrained):
    with pytest.raises(ValueError, match="binarise"):
        untrained.fit(_batches(*parts), verbose=0)


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [(-W, "finite and not negative"), (np.where(W > 1.0, np.nan, W), "finite"), (np.ones([11, 2]), "one number per")],
)
def test_weights_that_are_none_are_refused(sample_weight, message, untrained):
    with pytest.raises(ValueError, match=message):
        untrained.fit(X, sample_weight=sample_weight, verbose=0)


def test_no_path_around_the_checks():
    model = small_model.compiled()
    grey = 0.5 * X
    for use in (model, model.train_step, model.test_step, model.train_on_batch, model.test_on_batch, model.evaluate):
        with pytest.raises(ValueError, match="binarise"):
            use(grey)
    for use in (model.predict, model.predict_on_batch, model.encode, model.reconstruct, model.log_likelihood):
        with pytest.raises(ValueError, match="binarise"):
            use(grey)
    with pytest.raises(ValueError, match="binarise"):
        small_model.compiled(jit_compile=True).evaluate(grey, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="binarise"):  # In a training loop of one's own.
        tf.function(model.train_step, autograph=False)(grey)


def test_real_images_are_not_refused_where_they_have_a_density():
    class Gaussian(layers.GaussianLayer):
        pass

    inference, _ = networks.paper_networks(EVENT, (3,), ((6,),))
    generative = networks.GenerativeNetwork([Gaussian(EVENT, (6,), seed=1)], layers.standard_normal(3))
    model = models.ImportanceWeightedAutoencoder(inference, generative, num_samples=3)
    model.compile(jit_compile=False)
    assert np.isfinite(model.fit(3.0 * X - 1.0, verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match="not numbers"):
        model.fit(NAN, verbose=0)


def test_evaluate_is_the_mean_of_the_images_bounds_whatever_the_batches(fitted):
    bounds = fitted.predict(X, verbose=0)
    for batch_size in (1, 4, 11):
        logs = fitted.evaluate(X, Y, batch_size=batch_size, return_dict=True, verbose=0)
        assert logs["loss"] == pytest.approx(-bounds.mean(), rel=1e-6)
        assert logs["iwae_bound"] == pytest.approx(bounds.mean(), rel=1e-6)
    assert fitted.evaluate(_dataset(X), verbose=0) == pytest.approx(fitted.evaluate(X, verbose=0), rel=1e-6)
    weighted_mean = fitted.evaluate(X, sample_weight=W, verbose=0)[0]
    assert weighted_mean == pytest.approx(-np.average(bounds, weights=W), rel=1e-6)


def test_predict_does_not_depend_on_the_batch(fitted):
    expected = fitted(X)
    assert len(np.unique(expected)) == len(np.unique(X, axis=0))
    for batch_size in (2, 5, 11):
        np.testing.assert_allclose(fitted.predict(X, batch_size=batch_size, verbose=0), expected, rtol=1e-6)
    backwards = fitted.predict(_dataset(X[::-1].copy()), verbose=0)
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-6)
    np.testing.assert_allclose(fitted.predict_on_batch(X[3:4]), expected[3:4], rtol=1e-6)


def test_the_noise_of_different_images_is_independent_standard_normal():
    model = small_model.build()
    images = np.array([[(i >> j) & 1 for j in range(EVENT)] for i in range(2**EVENT)], np.float32)
    assert len(np.unique(models_ids := _ids(images))) == len(models_ids)
    (epsilon,) = model.epsilon_of_images(400, images, noise.key(0, "test"))
    values = np.asarray(epsilon, np.float64)
    count = values.size
    assert abs(values.mean()) < 4.5 / np.sqrt(count)
    assert abs(values.var() - 1.0) < 4.5 * np.sqrt(2.0 / count)
    correlations = np.corrcoef(values.transpose(1, 0, 2).reshape(len(images), -1))[np.triu_indices(len(images), 1)]
    assert np.abs(correlations).max() < 6.0 / np.sqrt(1200)
    assert correlations.std() == pytest.approx(1.0 / np.sqrt(1200), rel=0.05)


def _ids(images):
    from iwae_tf.latent_variable_model import image_ids

    return image_ids(tf.constant(images)).numpy()


@pytest.mark.parametrize(
    "validation",
    ["dataset", *(pytest.param(name, marks=pytest.mark.slow) for name in ("array", "pair", "split"))],
)
def test_validation_in_fit_is_evaluate(validation):
    model = small_model.compiled(steps_per_execution="auto", beta_warmup_steps=1000)
    data = {
        "array": {"validation_data": X[8:]},
        "pair": {"validation_data": (X[8:], X[8:])},
        "dataset": {"validation_data": _dataset(X[8:], Y[8:])},
        "split": {"validation_split": 0.25},
    }[validation]
    images = X if validation == "split" else X[:8]
    history = model.fit(images, epochs=2, **data, **ARGUMENTS).history
    assert history["val_loss"][-1] == pytest.approx(model.evaluate(X[8:], verbose=0)[0], rel=1e-5)


@pytest.mark.slow
def test_validation_noise_is_the_same_in_each_epoch():
    model = small_model.compiled(optimizer=keras.optimizers.SGD(0.0))
    losses = model.fit(X, validation_data=X, epochs=2, **ARGUMENTS).history
    assert losses["val_loss"][0] == losses["val_loss"][1]
    assert losses["loss"][0] != losses["loss"][1]


@pytest.mark.slow
def test_callbacks_work_with_their_defaults(tmp_path):
    """Each watches `val_loss`, which falls at first and cannot fall any more without a learning rate."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.optimizer.learning_rate = 0.0

    model = small_model.compiled(steps_per_execution="auto", optimizer=keras.optimizers.Adam(0.05))
    callbacks = [
        Stop(),
        keras.callbacks.EarlyStopping(patience=2),
        keras.callbacks.ReduceLROnPlateau(patience=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = model.fit(X, validation_data=X, epochs=20, callbacks=callbacks, **ARGUMENTS).history
    assert 3 < len(history["loss"]) < 7
    assert "val_loss" in (tmp_path / "log.csv").read_text().splitlines()[0]
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert best.evaluate(X, verbose=0)[0] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    fresh = small_model.build()
    fresh.load_weights(tmp_path / "last.weights.h5")
    assert_same_weights(fresh, model)


def test_terminate_on_nan_ends_the_training():
    model = small_model.compiled(steps_per_execution="auto", optimizer=keras.optimizers.SGD(1e30))
    history = model.fit(X, epochs=5, callbacks=[keras.callbacks.TerminateOnNaN()], **ARGUMENTS).history
    assert len(history["loss"]) < 5


@pytest.mark.slow
def test_backup_and_restore_continues_an_interrupted_training(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole = small_model.compiled()
    whole.fit(X, epochs=2, **ARGUMENTS)
    first, second = small_model.compiled(), small_model.compiled()
    with pytest.raises(KeyboardInterrupt):
        first.fit(X, epochs=2, callbacks=[backup(), Interrupt()], **ARGUMENTS)
    second.fit(X, epochs=2, callbacks=[backup()], **ARGUMENTS)
    assert_same_weights(second, whole)


def test_train_on_batch_is_a_step_of_fit():
    by_fit, by_batch = small_model.compiled(), small_model.compiled()
    loss = by_fit.fit(X, batch_size=11, shuffle=False, verbose=0).history["loss"][0]
    logs = by_batch.train_on_batch(X, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, rel=1e-6)
    assert_same_weights(by_fit, by_batch)
    assert by_batch.train_on_batch(X[:3], Y[:3], sample_weight=W[:3])[0] > 0.0
    assert by_batch.test_on_batch(X) == pytest.approx(by_batch.evaluate(X, batch_size=11, verbose=0), rel=1e-6)


@pytest.mark.parametrize("jit_compile", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_steps_in_an_execution_make_no_difference(jit_compile, fitted):
    """Batches of 4, 4 and 3 images: one execution, two, or three."""
    for steps in ("auto",) if jit_compile else (2, "auto"):
        model = small_model.compiled(steps_per_execution=steps, jit_compile=jit_compile)
        history = model.fit(X, epochs=1, **ARGUMENTS).history
        assert int(model.optimizer.iterations) == 3
        for a, b in zip(model.weights, fitted.weights, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
        assert history["loss"][0] == pytest.approx(fitted.get_metrics_result()["loss"].numpy(), rel=0.5)


def test_weights_in_one_execution(weighted):
    model = small_model.compiled(steps_per_execution=5)
    model.fit(X, sample_weight=W, **ARGUMENTS)
    for a, b in zip(model.weights, weighted.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_later_grey_batch_is_refused_before_the_steps_of_its_execution():
    model = small_model.compiled(steps_per_execution=5, jit_compile=True)
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match="binarise"):
        model.fit(GREY, **ARGUMENTS)
    for a, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(a, b)


class _Counter(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


def test_a_callback_that_follows_batches_sees_each():
    model, counter = small_model.compiled(steps_per_execution="auto"), _Counter()
    model.fit(X, callbacks=[counter], **ARGUMENTS)
    assert counter.batches == 3
    assert model.steps_per_execution == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 100),
        ({"steps_per_epoch": 250}, 50),
        ({"steps_per_epoch": 250, "validation_steps": 20}, 10),
        ({"steps_per_epoch": 101}, 1),
        ({"callbacks": [keras.callbacks.EarlyStopping(), keras.callbacks.TerminateOnNaN()]}, 100),
        ({"callbacks": keras.callbacks.ModelCheckpoint("m.keras")}, 100),
        ({"callbacks": [keras.callbacks.ModelCheckpoint("m.keras", save_freq=7)]}, 1),
        ({"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=print)]}, 1),
        ({"callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=print)]}, 100),
        ({"callbacks": [_Counter()]}, 1),
    ],
)
def test_how_many_steps_an_execution_has(arguments, expected):
    assert execution.automatic_steps(small_model.compiled(), arguments) == expected


def test_large_steps_make_short_executions(monkeypatch):
    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(784), num_samples=50)
    model.compile()
    assert execution.automatic_steps(model, {"batch_size": 100}) == 7
    assert execution.automatic_steps(model, {"batch_size": 100_000}) == 1
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert execution.automatic_steps(model, {"batch_size": 100}) == 100
    assert execution.automatic_steps(model, {"batch_size": 100_000}) == 1


def test_run_eagerly(fitted):
    model = small_model.compiled(run_eagerly=True)
    model.fit(X, validation_data=X[:3], **ARGUMENTS)
    for a, b in zip(model.weights, fitted.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["loss", "metrics", "loss_weights", "weighted_metrics"])
def test_compile_refuses_other_losses_and_metrics(name):
    with pytest.raises(ValueError, match=f"{name} is .'mae'., but the loss is the model's objective, iwae"):
        small_model.build().compile(**{name: ["mae"]})


def _with_encoder(encoder):
    generative = networks.GenerativeNetwork([layers.BernoulliLayer(EVENT, (6,), seed=1)], layers.standard_normal(3))
    return models.ImportanceWeightedAutoencoder(networks.BottomUpInference([encoder]), generative, num_samples=2)


class HidingEncoder(keras.layers.Layer):
    """Hides a network from Keras in a closure."""

    units = 3

    def __init__(self, network):
        super().__init__()
        self.network = lambda x: network(x)

    def call(self, x):
        return layers.DiagonalNormal(self.network(x), tf.ones([3]))


def _tf_keras_network():
    import tf_keras

    return tf_keras.Sequential([tf_keras.layers.Dense(3)])


class WithVariable(keras.layers.Layer):
    units = 3

    def __init__(self):
        super().__init__()
        self.loc = tf.Variable(tf.zeros([3]), name="my_loc")

    def call(self, x):
        return layers.DiagonalNormal(tf.zeros_like(x[:, :3]) + self.loc, tf.ones([3]))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: HidingEncoder(keras.layers.Dense(3)), "Keras does not track and would not train"),
        (lambda: HidingEncoder(_tf_keras_network()), "Keras does not track"),
        (WithVariable, "uses? the variable my_loc"),
        (lambda: keras.layers.Dense(3), "returned a EagerTensor, but must return a tfp distribution"),
        (lambda: lambda x: x, "must be a keras.layers.Layer that returns a distribution and has an attribute `units`"),
    ],
)
def test_an_encoder_that_would_not_be_trained_is_refused(encoder, message):
    with pytest.raises(ValueError, match=message):
        _with_encoder(encoder()).compile()


def test_a_network_that_is_no_keras_layer_is_refused():
    inference, generative = networks.paper_networks(EVENT, (3,), ((6,),))
    with pytest.raises(ValueError, match="inference is .*, but must be a keras.layers.Layer"):
        models.ImportanceWeightedAutoencoder(lambda x, epsilon: inference(x, epsilon), generative)


def test_a_frozen_encoder_is_no_error():
    model = small_model.build()
    model.inference.trainable = False
    model.compile(jit_compile=False)
    before = [weight.numpy() for weight in model.inference.weights]
    model.fit(X, **ARGUMENTS)
    for a, b in zip(model.inference.weights, before, strict=True):
        np.testing.assert_array_equal(a, b)


class _Pieces(keras.utils.PyDataset):
    """Batches of 4, 3 and 4 images."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return (X[[slice(0, 4), slice(4, 7), slice(7, 11)][index]],)


@pytest.mark.parametrize(
    ("x", "arguments", "num_steps"),
    [
        (_dataset(X).repeat(2), {}, 6),
        (tf.data.Dataset.from_tensor_slices(X).shuffle(11).batch(4).repeat(), {"steps_per_epoch": 90}, 90),
        (_Pieces(), {}, 3),
        (X, {"batch_size": 100}, 1),
    ],
    ids=["short batches within", "shuffled", "PyDataset", "one batch"],
)
def test_every_batch_is_a_step(x, arguments, num_steps):
    model = small_model.compiled(steps_per_execution="auto")
    model.fit(x, verbose=0, **arguments)
    assert int(model.optimizer.iterations) == num_steps


@pytest.mark.slow
def test_validation_sees_every_batch():
    model = small_model.compiled(steps_per_execution="auto")
    validation = _dataset(X).concatenate(_dataset(1.0 - X))
    history = model.fit(X, validation_data=validation, **ARGUMENTS).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(validation, verbose=0)[0], rel=1e-6)


@pytest.mark.slow
def test_a_callback_may_predict_and_evaluate():
    found = []

    class Use(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(self.model.predict(X, batch_size=4, verbose=0).shape)
            repeated = tf.data.Dataset.from_tensor_slices(X).batch(1).repeat()
            found.append(self.model.evaluate(repeated, steps=2, verbose=0)[0])

    model = small_model.compiled(steps_per_execution="auto")
    model.predict(X, batch_size=4, verbose=0)
    model.fit(X, callbacks=[Use()], **ARGUMENTS)
    assert found[0] == (len(X),)
    assert found[1] == pytest.approx(-np.mean(model.predict(X[:2], verbose=0)), rel=1e-6)


def test_a_step_of_a_subclass_gets_the_data_and_gives_the_logs():
    class Labelled(models.ImportanceWeightedAutoencoder):
        def train_step(self, data):
            _, y = data
            return super().train_step(data) | {"label": tf.reduce_mean(tf.cast(y, tf.float32))}

    model = Labelled(*networks.paper_networks(EVENT, (3,), ((6,),)), num_samples=3)
    model.compile(jit_compile=False)
    history = model.fit(X, Y, batch_size=11, verbose=0).history
    assert history["label"][0] == pytest.approx(Y.mean(), rel=1e-6)
    assert history["loss"][0] > 0.0


def test_a_subclass_of_a_callback_of_keras_follows_batches_too():
    class Counting(keras.callbacks.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            pass

    assert execution.automatic_steps(small_model.compiled(), {"callbacks": [Counting("m.keras")]}) == 1


def test_large_batches_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(execution, "_MOST_BYTES", 4 * 4 * EVENT * 2 + 100)
    model = small_model.compiled(steps_per_execution=5)
    model.fit(_dataset(np.concatenate([X, X, X])), verbose=0)
    assert int(model.optimizer.iterations) == 9


def test_a_frozen_model_can_be_fitted_and_stays_as_it_is():
    model = small_model.build()
    model.trainable = False
    model.compile(jit_compile=False)
    model.build((None, EVENT))
    before = [weight.numpy() for weight in model.weights]
    model.fit(X, **ARGUMENTS)
    for a, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_regularizer_is_refused():
    class Regular(keras.layers.Layer):
        units = 3

        def __init__(self):
            super().__init__()
            self.net = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(1.0))

        def call(self, x):
            return layers.DiagonalNormal(self.net(x), tf.ones([3]))

    with pytest.raises(ValueError, match="has a regularizer or calls add_loss"):
        _with_encoder(Regular()).compile()


def test_networks_of_different_sizes_are_refused():
    inference, _ = networks.paper_networks(EVENT, (3,), ((6,),))
    _, generative = networks.paper_networks(EVENT, (4,), ((6,),))
    message = r"has layers of \[3\] units, but the generative network has distributions of \[4\] latent units and 8"
    with pytest.raises(ValueError, match=message):
        models.ImportanceWeightedAutoencoder(inference, generative).compile()


def test_weights_beside_a_dataset_are_refused(untrained):
    for x in (_dataset(X), _batches(X)):
        with pytest.raises(ValueError, match="sample_weight is for arrays; a dataset or generator yields"):
            untrained.fit(x, sample_weight=W)


@pytest.mark.slow
def test_two_replicas_train_like_one(tmp_path):
    """In a process of its own, as logical devices are made before TensorFlow starts."""
    code = """
import sys
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
import small_model
x, _, weights = small_model.data(16)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    mirrored = small_model.build()
    mirrored.compile()
single = small_model.compiled()
logs = [
    model.fit(x, sample_weight=weights, batch_size=4, shuffle=False, validation_data=x, epochs=2, verbose=0).history
    for model in (mirrored, single)
]
for name in logs[0]:
    np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5)
for a, b in zip(mirrored.weights, single.weights, strict=True):
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
np.testing.assert_allclose(mirrored.predict(x, verbose=0), single.predict(x, verbose=0), rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code, str(pathlib.Path(__file__).parent)], cwd=tmp_path, check=True)


def test_checks_of_all_numbers_find_none_that_is_not_finite():
    """In training, and in the sums over blocks of samples, of which the last is not full."""
    model = small_model.compiled(run_eagerly=True)
    tf.debugging.enable_check_numerics()
    try:
        model.train_on_batch(X)
        values = model.log_likelihood(X[:1], 700).values
    finally:
        tf.debugging.disable_check_numerics()
    np.testing.assert_array_less(values, 0.0)
