import itertools
import signal

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import datasets, execution, models, networks, noise, runs, training
from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.runs import checkpoints
from iwae_tf.runtime import files, signals
from iwae_tf.training import batches, events
from iwae_tf.training.history import History

EVENT = 12


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (3, EVENT))

    def split(num_images):
        return patterns[rng.integers(0, 3, num_images)].astype(np.uint8)

    return datasets.Dataset(split(64), split(15), split(9), event_shape=(3, 4))


def _model(num_samples=3, latent_dims=(4,), hidden_dims=((6,),), **kwargs):
    """A model with one stochastic layer, unless told otherwise: its graph is traced faster."""
    inference, generative = networks.paper_networks(EVENT, latent_dims, hidden_dims, seed=1)
    return models.ImportanceWeightedAutoencoder(inference, generative, num_samples=num_samples, seed=2, **kwargs)


def _run(path):
    run = runs.RunDirectory(path)
    run.claim({"k": "3"})
    return run


def _plan(**kwargs):
    """A plan without XLA, unless told otherwise: compiling would take most of a test's time."""
    defaults = {"epochs": 4, "batch_size": 10, "learning_rate": 1e-2, "picture_every": 2, "jit": False}
    return training.Plan(**{**defaults, **kwargs})


def _deep_model():
    return _model(latent_dims=(4, 2), hidden_dims=((6,), (5,)))


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """An uninterrupted run: its model, its run directory and what `train` returned."""
    run, model = _run(tmp_path_factory.mktemp("trained")), _deep_model()
    return model, run, training.train(model, images, _plan(), run)


def test_training_increases_the_bound_and_writes_the_history(trained):
    _, run, result = trained
    rows = run.read_history()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert rows[-1]["train_iwae_bound"] > rows[0]["train_iwae_bound"] + 0.1
    assert all(row["train_iwae_bound"] > row["train_elbo"] for row in rows)
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(rows))
    assert (result.steps, result.epochs, result.resumed) == (24, 4, False)


@pytest.mark.parametrize("jit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_steps_equal_eager_steps(images, jit):
    """An eager loop over train_step with the same random numbers gives the same metrics and weights."""
    plain, fast = _deep_model(), _deep_model()
    training.prepare(plain, _plan(), steps_per_epoch=6)
    training.prepare(fast, _plan(jit=jit), steps_per_epoch=6)
    run_steps = batches.compiled_steps(fast, tf.constant(images.train))
    for epoch in range(2):
        order = noise.permutation(64, noise.key(2, "order", epoch)).numpy()[:60].reshape(6, 10)
        for model in (plain, fast):
            model.reset_metrics()
        for batch in order:
            key = noise.key(2, "binarization", plain.optimizer.iterations)
            expected = plain.train_step(binarization.binarize(images.train[batch], key))
        run_steps(batches.epoch_order(64, _plan(), 2, epoch), 0, 4)
        measured = run_steps(batches.epoch_order(64, _plan(), 2, epoch), 4, 6)
        for name, value in measured.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4)
    for variable, value in zip(fast.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-4)


class _Stop:
    """Replaces `signals.received`: the n-th call reports a signal."""

    def __init__(self, after):
        self._left = after

    def __call__(self):
        self._left -= 1
        return signal.SIGTERM if self._left == 0 else None


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_with_the_same_bits_as_an_uninterrupted_one(images, tmp_path, monkeypatch, jit):
    """Compares weights, averages, optimizer, metrics, history and the points of all curves.

    Without XLA, tensors as small as these are summed by one thread, so the order of the sums is fixed.
    """
    monkeypatch.setattr(events, "STEPS_PER_POINT", 3)
    monkeypatch.setattr(execution, "steps_per_call", lambda *_: 2)
    plan = _plan(jit=jit, first_epochs=2)
    whole, whole_run = _deep_model(), _run(tmp_path / "whole")
    training.train(whole, images, plan, whole_run)
    run = _run(tmp_path / "run")
    # An epoch of six steps calls it after two, four and six steps.
    for after in (1, 2, 2):
        with monkeypatch.context() as patch:
            patch.setattr(signals, "received", _Stop(after))
            with pytest.raises(signals.Interrupted):
                training.train(_deep_model(), images, plan, run)
    # A process that is killed between the two writes leaves a row without a checkpoint; the row is removed.
    run.write_history([*run.read_history(), {**run.read_history()[-1], "epoch": 9.0}])
    resumed = _deep_model()
    assert training.train(resumed, images, plan, run).resumed
    last = f"ckpt-{4 * 6}.npz"
    expected = files.read_arrays(whole_run.checkpoints / last)
    arrays = files.read_arrays(run.checkpoints / last)
    assert arrays.keys() == expected.keys()
    for name in expected.keys() - {"seconds", "history"}:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    for variable, value in zip(resumed.trainable_variables, whole.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, value)
    for row, expected_row in zip(run.read_history(), whole_run.read_history(), strict=True):
        assert {**row, "seconds": 0.0} == {**expected_row, "seconds": 0.0}
    for name in ("train_events", "validation_events"):
        expected, curves = (_read_events(getattr(directory, name)) for directory in (whole_run, run))
        assert curves.keys() == expected.keys()
        for tag, points in expected.items():
            # Steps may be repeated, with identical values.
            assert set(curves[tag]) == set(points), tag


@pytest.mark.slow
def test_the_first_epochs_equal_those_of_a_model_with_fewer_samples(images, tmp_path):
    """Their learning rate is constant; validation always uses the model's own number of samples."""
    one_sample, three_samples, switching = _model(num_samples=1), _model(num_samples=3), _model(num_samples=3)
    histories = []
    for model, first_epochs in ((one_sample, 3), (three_samples, 3), (switching, 2)):
        run = _run(tmp_path / str(len(histories)))
        training.train(model, images, _plan(ema_momentum=0.0, epochs=3, first_epochs=first_epochs), run)
        histories.append(run.read_history())
    for weight, expected in zip(three_samples.trainable_variables, one_sample.trainable_variables, strict=True):
        np.testing.assert_array_equal(weight, expected)
    for row, other in zip(histories[1], histories[0], strict=True):
        assert row["train_iwae_bound"] == row["train_elbo"] == other["train_elbo"]
        assert row["validation_iwae_bound"] > row["validation_elbo"]
        assert row["learning_rate"] == pytest.approx(1e-2)
    assert histories[2][1]["train_elbo"] == histories[0][1]["train_elbo"]
    assert histories[2][2]["train_iwae_bound"] > histories[2][2]["train_elbo"]
    assert histories[2][2]["learning_rate"] == pytest.approx(1e-4)


def test_a_checkpoint_is_written_within_an_epoch_after_checkpoint_minutes(images, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "steps_per_call", lambda *_: 4)
    run = _run(tmp_path)
    training.train(_model(), images, _plan(epochs=1, checkpoint_minutes=0.0), run)
    assert checkpoints.steps(run.checkpoints) == [4, 6]


def test_a_finished_run_is_restored_and_not_trained(images, trained):
    whole, run, _ = trained
    event_files = sorted(run.train_events.iterdir())
    restored = _deep_model()
    result = training.train(restored, images, _plan(), run)
    assert (result.steps, result.resumed) == (24, False)
    last = checkpoints.path(run.checkpoints, checkpoints.steps(run.checkpoints)[-1])
    assert result.seconds == files.read_arrays(last)["seconds"] >= run.read_history()[-1]["seconds"] - 1e-6
    assert sorted(run.train_events.iterdir()) == event_files
    for variable, expected in zip(restored.trainable_variables, whole.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_the_final_weights_are_the_averages(images, tmp_path):
    """With one step per epoch, the average can be computed here."""
    plan = _plan(batch_size=60, ema_momentum=0.5, epochs=20, picture_every=20)
    run, model = _run(tmp_path), _model()
    training.prepare(model, plan, steps_per_epoch=1)
    averages = None
    for _ in training.train_epochs(model, images, plan, run, History()):
        raw = [variable.numpy() for variable in model.trainable_variables]
        averages = raw if averages is None else [0.5 * (a + b) for a, b in zip(averages, raw, strict=True)]
    restored = _model()
    training.train(restored, images, plan, run)
    for variable, average, last in zip(restored.trainable_variables, averages, raw, strict=True):
        np.testing.assert_allclose(variable, average, atol=1e-6)
        assert np.any(variable.numpy() != last)


def test_without_averaging_the_final_weights_are_the_last_ones(images, tmp_path):
    plan = _plan(ema_momentum=0.0, epochs=1)
    run, model = _run(tmp_path), _model()
    training.train(model, images, plan, run)
    restored = _model()
    training.prepare(restored, plan)
    training.restore(restored, run)
    assert restored.num_steps == 6
    for variable, expected in zip(restored.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_training_continues_from_the_checkpoint_before_a_damaged_one(images, tmp_path, capsys):
    plan, run = _plan(epochs=3), _run(tmp_path)
    training.train(_model(), images, plan, run)
    last = run.checkpoints / "ckpt-18.npz"
    whole = last.read_bytes()
    last.write_bytes(whole[:1000])
    model = _model()
    assert training.train(model, images, plan, run).resumed
    assert "ckpt-18.npz is damaged; trying the previous one" in capsys.readouterr().err
    assert len(run.read_history()) == 3
    assert len(last.read_bytes()) == len(whole)


def test_a_short_training_run_averages_over_a_tenth_of_its_steps():
    def momentum(steps):
        adam = training.Plan(epochs=1, ema_momentum=0.999).optimizer(steps)
        assert adam.use_ema  # The variables in a checkpoint must not depend on the length of the training.
        return adam.ema_momentum

    assert [momentum(steps) for steps in (5, 1000, 10_000, 100_000)] == [0.0, 0.99, 0.999, 0.999]


def test_the_optimizer_is_the_papers_adam():
    adam = _plan(adam_epsilon=1e-4).optimizer(steps_per_epoch=6)
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.999, 1e-4)
    with pytest.raises(ValueError, match="must be one of cosine, paper"):
        _plan(schedule="constant")


def test_a_batch_larger_than_the_training_split_is_refused(images, tmp_path):
    with pytest.raises(UserError, match="^batch_size=65 is more than the 64 training images; use a smaller batch_size"):
        training.train(_model(), images, _plan(batch_size=65), _run(tmp_path))


def test_restoring_without_a_checkpoint_is_refused(images, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        training.train(_model(), images, _plan(), _run(tmp_path / "empty"), continue_training=False)


def test_a_bound_that_is_not_finite_stops_the_run(images, tmp_path):
    """The error names the step, and a checkpoint from before it, which is finite."""
    run = _run(tmp_path)
    message = r"in step \d+ the bound is -?(nan|inf).*; nothing was saved yet; .* clip_norm"
    with pytest.raises(UserError, match=message):
        training.train(_model(), images, _plan(learning_rate=1e9, ema_momentum=0.0), run)
    training.train(_model(), images, _plan(epochs=1), run)
    model = _model()
    training.prepare(model, _plan())
    history = training.restore(model, run)
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.nan))
    message = r"in step 7 the bound is nan and \d+ gradients are not finite \(the first is of .*\); .*ckpt-6"
    with pytest.raises(UserError, match=message):
        list(training.train_epochs(model, images, _plan(), run, history))
    restored = _prepared()
    assert len(training.restore(restored, run).rows) == 1
    assert all(np.all(np.isfinite(weight)) for weight in restored.weights)


def test_a_bad_last_step_is_not_saved(images, tmp_path):
    """The validation finds that its weights are not finite."""
    run = _run(tmp_path)
    with pytest.raises(UserError, match=r"Training failed: (in step 1\b|.* after step 1\b).*; nothing was saved yet"):
        training.train(_model(), images, _plan(batch_size=60, learning_rate=1e30, ema_momentum=0.0), run)
    assert checkpoints.steps(run.checkpoints) == []


def test_a_gradient_that_is_not_finite_is_named(images, tmp_path, monkeypatch):
    """The bound of the same step is still finite; that of the next step is not."""
    model = _prepared()
    gradients = model.gradients

    def overflowing(*args):
        terms, (first, *others) = gradients(*args)
        factor = tf.where(model.optimizer.iterations == 3, np.inf, 1.0)
        return terms, [factor * first, *others]

    monkeypatch.setattr(model, "gradients", overflowing)
    name = model.trainable_variables[0].path
    with pytest.raises(UserError, match=rf"in step 4 the bound is -\d.* and the gradient of {name} is not finite;"):
        list(training.train_epochs(model, images, _plan(), _run(tmp_path), History()))


def _prepared():
    model = _model()
    training.prepare(model, _plan(), 6)
    return model


def test_clipping_scales_all_gradients_together(images):
    """Adam's first step does not depend on the size of the gradients, but its first moment does."""
    plain, clipped = _model(), _model()
    training.prepare(plain, _plan())
    training.prepare(clipped, _plan(clip_norm=1e-3))
    x = binarization.binarize(images.train[:10], noise.key(0, "test"))
    _, gradients = plain.gradients(x)
    norm = tf.linalg.global_norm(gradients)
    clipped.train_step(x)
    for momentum, gradient in zip(clipped.optimizer._momentums, gradients, strict=True):
        np.testing.assert_allclose(momentum, 0.1 * 1e-3 / norm * gradient, rtol=1e-4, atol=1e-9)


PICTURES = ("samples", "reconstructions")


def _read_events(folder):
    """Returns tag -> [(step, value)]; the value of a picture is its bytes."""
    events = {}
    for file in sorted(folder.iterdir()):
        for line in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(line.numpy())
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor).tolist()
                events.setdefault(value.tag, []).append(
                    (event.step, tuple(content) if value.tag in PICTURES else content)
                )
    return events


def test_event_files(trained):
    _, run, _ = trained
    rows = run.read_history()
    train, validation = _read_events(run.train_events), _read_events(run.validation_events)
    scalars = {"iwae_bound", "elbo", "distortion", "rate", "rate/layer_1", "rate/layer_2", "effective_sample_size"}
    assert set(train) == scalars | {"learning_rate"}
    pictures = {"samples", "reconstructions", "active_units/layer_1", "active_units/layer_2"}
    assert set(validation) == scalars | pictures
    assert [step for step, _ in validation["elbo"]] == [6, 12, 18, 24]
    assert [step for step, _ in validation["samples"]] == [12, 24]
    np.testing.assert_allclose(
        [float(value) for _, value in train["iwae_bound"]], [row["train_iwae_bound"] for row in rows], rtol=1e-5
    )
    np.testing.assert_allclose(
        [float(value) for _, value in validation["iwae_bound"]],
        [row["validation_iwae_bound"] for row in rows],
        rtol=1e-5,
    )


def test_training_curves_have_points_within_an_epoch(images, tmp_path, monkeypatch):
    """A point every 2 of 6 steps: each is the mean of its own steps, so their mean is the epoch's."""
    monkeypatch.setattr(events, "STEPS_PER_POINT", 2)
    run = _run(tmp_path)
    training.train(_model(), images, _plan(epochs=1), run)
    points = _read_events(run.train_events)["elbo"]
    assert [step for step, _ in points] == [2, 4, 6]
    mean = np.mean([float(value) for _, value in points])
    assert mean == pytest.approx(run.read_history()[0]["train_elbo"], rel=1e-5)


def test_every_epoch_has_a_different_order_with_each_image_at_most_once():
    orders = [batches.epoch_order(64, _plan(), 2, epoch).numpy() for epoch in range(2)]
    for order in orders:
        assert order.shape == (6, 10)
        assert len(np.unique(order)) == 60
    assert np.any(orders[0] != orders[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("first_num_samples", 0),
        ("picture_every", 0),
        ("first_epochs", 101),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("adam_epsilon", 0.0),
        ("clip_norm", -1.0),
        ("checkpoint_minutes", float("nan")),
        ("ema_momentum", 1.5),
    ],
)
def test_a_plan_with_an_impossible_value_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}, but must be"):
        training.Plan(**{name: value})
