import itertools

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import binarization, datasets, models, networks, noise, runs, training
from iwae_tf.errors import UserError

EVENT = 12


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (3, EVENT))

    def split(num_images):
        return patterns[rng.integers(0, 3, num_images)].astype(np.uint8)

    return datasets.Images(split(64), split(15), split(9), image_shape=(3, 4))


def _model(num_samples=3, **kwargs):
    inference, generative = networks.paper_networks(EVENT, (4, 2), ((6,), (5,)), seed=1)
    return models.ImportanceWeightedAutoencoder(inference, generative, num_samples=num_samples, seed=2, **kwargs)


def _run(path):
    run = runs.RunDirectory(path)
    run.claim({"k": "3"})
    return run


def _plan(**kwargs):
    """Most tests do without XLA, whose compilation is most of their time."""
    defaults = {"epochs": 4, "batch_size": 10, "learning_rate": 1e-2, "picture_every": 2, "jit": False}
    return training.Plan(**{**defaults, **kwargs})


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """An uninterrupted run: its model, run directory and record."""
    run, model = _run(tmp_path_factory.mktemp("trained")), _model()
    return model, run, training.train(model, images, _plan(), run)


def test_training_raises_the_bound_and_leaves_a_record(trained):
    _, run, record = trained
    rows = run.read_history()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert rows[-1]["train_iwae_bound"] > rows[0]["train_iwae_bound"] + 0.1
    assert all(row["train_iwae_bound"] > row["train_elbo"] for row in rows)
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(rows))
    assert (record["steps"], record["epochs"], record["resumed"]) == (24, 4, False)


@pytest.mark.parametrize("jit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_steps_are_the_plain_steps(images, jit):
    """An eager loop over train_step on the same random numbers has the same learning curve and weights."""
    plain, fast = _model(), _model()
    training.prepare(plain, _plan(), steps_per_epoch=6)
    training.prepare(fast, _plan(jit=jit), steps_per_epoch=6)
    train_function = training.compiled_steps(fast, tf.constant(images.train))
    calls = iter(training._calls(64, _plan(), 2, 0, num_steps=4))  # 4 and 2 steps an epoch.
    for epoch in range(2):
        order = noise.permutation(64, noise.key(2, "order", epoch)).numpy()[:60].reshape(6, 10)
        for model in (plain, fast):
            model.reset_metrics()
        for batch in order:
            key = noise.key(2, "binarization", plain.optimizer.iterations)
            expected = plain.train_step(binarization.binarize(images.train[batch], key))
        train_function(calls)
        measured = train_function(calls)
        for name, value in measured.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4)
    for variable, value in zip(fast.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-4)


def test_a_resumed_run_ends_as_the_uninterrupted_one(images, trained, tmp_path, monkeypatch):
    whole, whole_run, _ = trained
    run = _run(tmp_path)

    class Interrupt(training.Checkpoints):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "Checkpoints", Interrupt)
        with pytest.raises(KeyboardInterrupt):
            training.train(_model(), images, _plan(), run)
    assert len(run.read_history()) == 2
    # A row without its checkpoint, as a kill between the two leaves it, is cut off.
    run.write_history([*run.read_history(), {**run.read_history()[-1], "epoch": 3.0}])

    resumed = _model()
    record = training.train(resumed, images, _plan(), run)
    assert record["resumed"]
    # Without XLA, sums over several threads may round differently from one process to the next; other noise, another
    # order of the images or a lost moment of Adam moves weights by the learning rate, 1e-2.
    for variable, expected in zip(resumed.trainable_variables, whole.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, expected, atol=2e-4)
    for row, expected in zip(run.read_history(), whole_run.read_history(), strict=True):
        assert {**row, "seconds": 0.0} == pytest.approx({**expected, "seconds": 0.0}, rel=1e-4)


def test_a_finished_training_is_only_restored(images, trained):
    whole, run, _ = trained
    events = sorted(run.train_events.iterdir())
    again = _model()
    record = training.train(again, images, _plan(), run)
    assert (record["steps"], record["resumed"]) == (24, False)
    assert record["seconds"] == run.read_history()[-1]["seconds"]
    assert sorted(run.train_events.iterdir()) == events
    for variable, expected in zip(again.trainable_variables, whole.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_the_weights_afterwards_are_the_average(images, tmp_path, monkeypatch):
    """With one step an epoch the average can be followed through the checkpoints."""
    monkeypatch.setattr(training, "_CHECKPOINTS_KEPT", 20)
    plan = _plan(batch_size=60, ema_momentum=0.5, epochs=20, picture_every=20)
    run, model, reader = _run(tmp_path), _model(), _model()
    training.train(model, images, plan, run)
    training.prepare(reader, plan)
    checkpoint = tf.train.Checkpoint(model=reader, optimizer=reader.optimizer)
    averages = None
    for epoch in range(1, 21):
        checkpoint.restore(str(run.checkpoints / f"ckpt-{epoch}")).assert_existing_objects_matched()
        raw = [variable.numpy() for variable in reader.trainable_variables]
        averages = raw if averages is None else [0.5 * (a + b) for a, b in zip(averages, raw, strict=True)]
    for variable, average, last in zip(model.trainable_variables, averages, raw, strict=True):
        np.testing.assert_allclose(variable, average, atol=1e-6)
        assert np.any(variable.numpy() != last)


def test_without_averaging_the_weights_are_the_last_ones(images, tmp_path):
    plan = _plan(ema_momentum=0.0, epochs=1)
    run, model = _run(tmp_path), _model()
    training.train(model, images, plan, run)
    again = _model()
    training.prepare(again, plan)
    assert training.restore(again, run) == 6
    for variable, expected in zip(again.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(images, tmp_path, capsys):
    plan, run = _plan(epochs=2), _run(tmp_path)
    training.train(_model(), images, plan, run)
    first, second = sorted(run.checkpoints.glob("*.data-*"))
    second.write_bytes(second.read_bytes()[:1000])
    model = _model()
    training.prepare(model, plan)
    assert training.restore(model, run) == 6
    assert "cannot restore" in capsys.readouterr().err
    first.unlink()
    with pytest.raises(UserError, match="No checkpoint in .* can be restored"):
        training.restore(model, run)


def test_a_short_training_averages_over_a_tenth_of_it():
    def momentum(steps):
        adam = training.Plan(epochs=1, ema_momentum=0.999).optimizer(steps)
        assert adam.use_ema  # The variables in a checkpoint do not depend on the length of the training.
        return adam.ema_momentum

    assert [momentum(steps) for steps in (5, 1000, 10_000, 100_000)] == [0.0, 0.99, 0.999, 0.999]


def test_the_papers_adam():
    adam = _plan(adam_epsilon=1e-4).optimizer(steps_per_epoch=6)
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.999, 1e-4)
    with pytest.raises(ValueError, match="must be one of cosine, paper"):
        _plan(schedule="constant")


def test_what_cannot_be_trained_is_refused(images, tmp_path):
    with pytest.raises(UserError, match="--batch_size=65 is more than the 64 training images"):
        training.train(_model(), images, _plan(batch_size=65), _run(tmp_path))
    with pytest.raises(UserError, match="has no checkpoint"):
        training.train(_model(), images, _plan(), _run(tmp_path), continue_training=False)


def test_a_bound_that_is_not_finite_stops_the_run(images, tmp_path):
    with pytest.raises(UserError, match="became .* in epoch 1: try a smaller --learning_rate"):
        training.train(_model(), images, _plan(learning_rate=1e9, ema_momentum=0.0), _run(tmp_path))


def _read_events(folder):
    """tag -> [(step, value)]; pictures count by their bytes."""
    events = {}
    for file in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                events.setdefault(value.tag, []).append((event.step, array))
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


def test_points_of_the_training_curve_within_an_epoch(images, tmp_path, monkeypatch):
    """Points every 2 steps of 6: each the mean of its own steps, so that their mean is the epoch's."""
    monkeypatch.setattr(training, "_STEPS_PER_POINT", 2)
    run = _run(tmp_path)
    training.train(_model(), images, _plan(epochs=1), run)
    points = _read_events(run.train_events)["elbo"]
    assert [step for step, _ in points] == [2, 4, 6]
    mean = np.mean([float(value) for _, value in points])
    assert mean == pytest.approx(run.read_history()[0]["train_elbo"], rel=1e-5)


def test_every_epoch_has_its_own_order_and_each_image_once():
    plan = _plan(epochs=2)
    orders = [np.concatenate([order[start:stop] for order, start, stop in epoch]) for epoch in _epochs(plan, 4)]
    for order in orders:
        assert order.shape == (6, 10)
        assert len(np.unique(order)) == 60
    assert np.any(orders[0] != orders[1])


def _epochs(plan, num_steps):
    calls = list(training._calls(64, plan, 2, 0, num_steps).as_numpy_iterator())
    return calls[: len(calls) // 2], calls[len(calls) // 2 :]
