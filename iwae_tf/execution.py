"""How Keras' `fit`, `evaluate` and `train_on_batch` run the steps of the model.

Keras compiles one step and calls it for every batch, which for small models takes as long as the step itself. Here an
execution of several steps (`steps_per_execution`) reads their batches, checks them, and runs all steps in one compiled
call, as the package's own training does.
"""

import contextlib
import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import inputs, matrix_units
from iwae_tf.runtime import machine

# The most steps in one execution, unless the user sets the number of steps.
_MOST_STEPS = 100
# Operations in one compiled call. A call should last at most about a second, so that progress is shown and signals are
# handled, but not much less: each call allocates its memory again, which at k = 50 and batch 100 costs as much as half
# a step. A GPU is a hundred times as fast.
_OPERATIONS_PER_CALL, _OPERATIONS_PER_CALL_ON_GPU = 1e11, 1e13
# The batch size to reckon with where the data do not tell theirs.
_USUAL_BATCH = 100
# The most bytes of images in one compiled call.
_MOST_BYTES = 2**26


class FastExecution:
    """What Keras calls for each execution: takes steps on the next batches of an iterator, and returns the metrics.

    The steps get (x,) or (x, None, sample_weight): targets are left out.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      step: `train_step` or `test_step` of the model.
    """

    def __init__(self, model: keras.Model, step: Callable[[Any], Any]) -> None:
        self._model, self._step = model, step
        self._num_steps = model.steps_per_execution
        # Batches are checked where they are read: XLA would remove the assertions. There is one trace for each kind of
        # data, since a common one would not know their shapes.
        self._read = _compiled(self._stacks, reduce_retracing=False)
        self._read_one = _compiled(self._arrays)
        num_rounded = model.num_samples if step == model.train_step else 0  # Evaluation is in float32.
        self._compiled = compiled_steps(self._steps, model, num_rounded)

    def __call__(self, iterator: Iterator[Any]) -> dict[str, tf.Tensor]:
        with inputs.one_sentence():
            if not isinstance(iterator, tf.data.Iterator):  # Of `train_on_batch`.
                return self._run_one(self._read_one(tf.nest.map_structure(_as_tensor, next(iterator))))
            done, logs = 0, None
            while done < self._num_steps:
                try:
                    stacks, count, other = self._read(iterator, tf.constant(self._num_steps - done))
                except tf.errors.OutOfRangeError:
                    break
                logs = self._run(stacks, count)
                done += int(count)
                if len(other[0]):
                    logs = self._run_one(other)
                    done += 1
        if logs is None:
            raise StopIteration
        return logs

    def _run(self, stacks, count):
        return self._compiled(stacks[0].shape[1], stacks, count)

    def _run_one(self, arrays):
        return self._run([array[tf.newaxis] for array in arrays], tf.constant(1))

    def _stacks(self, iterator, limit):
        """Reads at least one and at most `limit` batches.

        The arrays of a compiled call have one shape. So a batch of another size ends the reading, and stacks that are
        not full end with zeros.

        Returns:
          The stacks of the arrays, [number, batch, ...], how many batches they hold, and the arrays of a further batch,
          of another size or without images.
        """
        first = self._arrays(iterator.get_next())
        number = tf.clip_by_value(_MOST_BYTES // (4 * tf.size(first[0]) + 1), 1, self._num_steps)
        stacks = [tf.TensorArray(a.dtype, number, element_shape=a.shape).write(0, a) for a in first]
        nothing = [_without_images(array) for array in first]

        def read(count, _, stacks, other):
            following = iterator.get_next_as_optional()
            batch = tf.cond(following.has_value(), lambda: self._arrays(following.get_value()), lambda: nothing)
            fits = tf.equal(tf.shape(batch[0])[0], tf.shape(first[0])[0])
            stacks, other = tf.cond(fits, lambda: (_written(stacks, count, batch), other), lambda: (stacks, batch))
            return count + tf.cast(fits, tf.int32), fits, stacks, other

        count, _, stacks, other = tf.while_loop(
            lambda count, fits, *_: fits & (count < tf.minimum(limit, number)),
            read,
            (tf.constant(1), tf.constant(True), stacks, nothing),
        )
        return [stack.stack() for stack in stacks], count, other

    def _steps(self, in_step, stacks, count):
        """Takes the step on the first `count` batches of the stacks."""

        def take(i):
            with in_step():
                x, *sample_weight = (tf.gather(stack, i) for stack in stacks)
                self._step((x, None, *sample_weight) if sample_weight else (x,))
                return [i + 1]

        tf.while_loop(lambda i: i < count, take, [0])
        return self._model.get_metrics_result()

    def _arrays(self, data):
        """The images of a batch, and their weights if there are any."""
        x, sample_weight = self._model.checked(data)
        return [x] if sample_weight is None else [x, sample_weight]


class PlainExecution:
    """A `FastExecution` that takes one step after another, as Keras does, and passes targets on.

    It serves steps that a subclass defines, which may return what they like, several replicas, and eager mode.
    """

    def __init__(self, model: keras.Model, step: Callable[[Any], Any]) -> None:
        self._model, self._step = model, step
        self._num_steps = model.steps_per_execution
        if model.run_eagerly:
            self._take = self._checked_step
            return
        if not _has_replicas(model):  # Replicas must not compile the step: they exchange gradients in it.
            self._step = _compiled(step, model.jit_compile)
        self._take = _compiled(self._checked_step)

    def __call__(self, iterator: Iterator[Any]) -> dict[str, tf.Tensor]:
        logs = None
        with inputs.one_sentence():
            for data in itertools.islice(iterator, self._num_steps):
                logs = self._take(tf.nest.map_structure(_as_tensor, data))
        if logs is None:
            raise StopIteration
        return logs

    def _checked_step(self, data):
        def replica_step(data):
            x, _ = self._model.checked(data)
            return self._step((x, *data[1:]) if isinstance(data, tuple) else x)

        logs = self._model.distribute_strategy.run(replica_step, (data,))
        return self._model.get_metrics_result() if _has_replicas(self._model) else logs


def _without_images(array):
    """No images, in a tensor whose static shape allows any number of them, as a loop needs."""
    return tf.compat.v1.placeholder_with_default(array[:0], [None, *array.shape[1:]])


def _written(stacks, index, batch):
    return [stack.write(index, array) for stack, array in zip(stacks, batch, strict=True)]


def _as_tensor(part):
    # A distributed batch and an absent target are no arrays.
    is_array = isinstance(part, (np.ndarray, np.generic, list, int, float))
    return tf.convert_to_tensor(part) if is_array else part


def compiled_steps(run: Callable, model: keras.Model, num_samples: int) -> Callable:
    """Compiles a function that runs training steps, in the way that is faster.

    Args:
      run: takes `in_step` and further arguments, and takes each step in the context `in_step()`.
      model: as for `matrix_units.are_faster`.
      num_samples: as for `matrix_units.are_faster`.

    Returns:
      A function of (batch_size, *arguments), which calls run(in_step, *arguments).
    """
    # There is one trace for each shape, because the number of rows of a product decides how it is computed.
    whole = _compiled(functools.partial(run, contextlib.nullcontext), model.jit_compile, reduce_retracing=False)
    parts = _compiled(functools.partial(run, matrix_units.steps), reduce_retracing=False)

    def run_compiled(batch_size, *arguments):
        return (parts if matrix_units.are_faster(model, num_samples, batch_size) else whole)(*arguments)

    return run_compiled


def _compiled(function, jit_compile=False, reduce_retracing=True):
    return tf.function(function, jit_compile=jit_compile, autograph=False, reduce_retracing=reduce_retracing)


class StepwiseModel(keras.Model):
    """A `keras.Model` whose `train_step` and `test_step` define its loss and metrics, and run in a `FastExecution`.

    A subclass has `checked`, which returns the images and the weights of a batch, and `event_size`.
    """

    # Keras sets it.
    predict_function: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.jit_compile = not tf.distribute.has_strategy()
        self._has_automatic_execution = True
        self._executions: dict[tuple, FastExecution | PlainExecution] = {}

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: None = None,
        loss_weights: None = None,
        metrics: None = None,
        weighted_metrics: None = None,
        run_eagerly: bool = False,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """`keras.Model.compile` with other defaults.

        Args:
          optimizer: the optimizer, or its name.
          loss: not possible, as for `loss_weights`, `metrics` and `weighted_metrics`.
          loss_weights: see loss.
          metrics: see loss.
          weighted_metrics: see loss.
          run_eagerly: whether to run without `tf.function`.
          steps_per_execution: how many steps to run in one compiled call. "auto" chooses in each `fit`, see
            `automatic_steps`.
          jit_compile: whether to compile with XLA. "auto" does, unless there is a `tf.distribute` strategy.
          auto_scale_loss: whether to scale the loss under the policy "mixed_float16".

        Raises:
          ValueError: a loss or metrics were given.
        """
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        for name, value in given.items():
            if value:
                raise ValueError(
                    f"{name} is {value!r}, but the loss is the model's objective, {self.objective.name}, and the "
                    f"metrics are fixed; leave out {name}."
                )
        self._has_automatic_execution = steps_per_execution == "auto"
        self._executions = {}
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=1 if self._has_automatic_execution else steps_per_execution,
            jit_compile=not run_eagerly and not _has_replicas(self) if jit_compile == "auto" else jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        with self.distribute_strategy.scope():
            self.build((None, self.event_size))
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        return config | ({"steps_per_execution": "auto"} if config and self._has_automatic_execution else {})

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.save`, to a `.keras` file: Keras could not read a model of this class from another one."""
        if not str(filepath).endswith(".keras"):
            raise ValueError(f"filepath is {str(filepath)!r}, but must end with .keras.")
        self.build((None, self.event_size))
        super().save(filepath, *args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        self.build((None, self.event_size))
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        self.build((None, self.event_size))
        super().load_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.export`: a SavedModel that serves `call`; `export.export` writes one with more signatures."""
        self(tf.zeros([1, self.event_size]))  # Keras insists on a call.
        super().export(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit`; the logs have `loss`, the negative objective, and the other `metrics`.

        Raises:
          ValueError: the images are not as `inputs.checked` wants them.
        """
        arguments = _with_targets(inspect.signature(super().fit).bind(*args, **kwargs).arguments)
        validation = arguments.get("validation_data")
        if isinstance(validation, (tuple, list)) and len(validation) == 3:
            named = _with_targets(dict(zip(("x", "y", "sample_weight"), validation, strict=True)))
            arguments["validation_data"] = tuple(named.values())
        with self._steps(automatic_steps(self, arguments)):
            return super().fit(**arguments)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`, with the metrics of `fit`."""
        bound = inspect.signature(super().evaluate).bind(*args, **kwargs)
        bound.apply_defaults()
        private = bound.arguments.pop("kwargs")
        arguments = _with_targets(bound.arguments)
        if private:  # `fit` validates.
            return super().evaluate(**arguments, **private)
        with self._steps(1):
            return super().evaluate(**arguments)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict`: the bound of each image in nats, as `call` returns it."""
        with self._steps(1):
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _steps(self, number):
        """Within this context, an execution has this number of steps, unless the user has set another."""
        if not self._has_automatic_execution:
            yield
            return
        before, self.steps_per_execution = self.steps_per_execution, number
        try:
            yield
        finally:
            self.steps_per_execution = before

    def make_train_function(self, force: bool = False) -> None:
        self.train_function = self._execution("train_step", force)

    def make_test_function(self, force: bool = False) -> None:
        self.test_function = self._execution("test_step", force)

    def _execution(self, name, force):
        """What executes a step, kept from earlier calls, as compiling it takes seconds."""
        key = name, self.steps_per_execution, self.run_eagerly, self.jit_compile
        if force or key not in self._executions:
            is_plain = self.run_eagerly or _has_replicas(self) or _is_overridden(self, name)
            self._executions[key] = (PlainExecution if is_plain else FastExecution)(self, getattr(self, name))
        return self._executions[key]

    def make_predict_function(self, force: bool = False) -> None:
        if self.predict_function is not None and not force:
            return
        super().make_predict_function(force)
        if not _has_replicas(self):
            predict = self.predict_function
            # XLA would remove the checks of the model's call.
            self.predict_function = lambda batches: predict([(self.checked(batch)[0],) for batch in batches])


def _has_replicas(model):
    return model.distribute_strategy.num_replicas_in_sync > 1


def _is_overridden(model, name):
    """Whether a class outside this package defines a method."""
    owner = next(kind for kind in type(model).__mro__ if name in vars(kind))
    return not owner.__module__.startswith("iwae_tf.")


def _with_targets(arguments):
    """The arguments of `fit` or `evaluate`, with targets if there are weights: Keras drops weights without targets."""
    x, sample_weight = arguments.get("x"), arguments.get("sample_weight")
    if sample_weight is None or arguments.get("y") is not None:
        return arguments
    if not hasattr(x, "shape"):
        raise ValueError("sample_weight is for arrays; a dataset or generator yields (x, y, sample_weight) instead.")
    return arguments | {"y": np.zeros(len(x)), "sample_weight": np.asarray(sample_weight)}


def automatic_steps(model: keras.Model, fit_arguments: dict[str, Any]) -> int:
    """Returns how many steps one execution of `fit` has where the user leaves it open.

    Args:
      model: has `num_samples`.
      fit_arguments: the arguments of `fit`, name -> value.

    Returns:
      1 if a callback follows single batches, a subclass defines the step, or there are several replicas. Otherwise the
      steps of about a second, at most 100 and at most those of an epoch. Where the user gives the steps of an epoch or
      of a validation, these are multiples of it, as Keras runs whole executions.
    """
    callbacks = fit_arguments.get("callbacks") or []
    are_single = any(map(_follows_batches, tf.nest.flatten(callbacks)))
    if are_single or _has_replicas(model) or _is_overridden(model, "train_step"):
        return 1
    batch_size = fit_arguments.get("batch_size") or _USUAL_BATCH
    most = steps_per_call(model, model.num_samples, batch_size, min(_num_batches(fit_arguments), _MOST_STEPS))
    given = [fit_arguments.get(name) or 0 for name in ("steps_per_epoch", "validation_steps")]
    whole = math.gcd(*given, keras.config.max_steps_per_epoch() or 0)
    return max(n for n in range(1, most + 1) if whole % n == 0)


def steps_per_call(model: keras.Model, num_samples: int, batch_size: int, most: int) -> int:
    """Returns how many training steps take about a second, from 1 to `most`."""
    per_step = 6 * _num_products(model) * num_samples * batch_size
    per_call = _OPERATIONS_PER_CALL_ON_GPU if machine.has_gpu() else _OPERATIONS_PER_CALL
    return int(np.clip(per_call / max(per_step, 1), 1, max(most, 1)))


def _num_products(model):
    """The multiplications of one sample of one image: one for each weight, but more for those of convolutions."""
    convolutions = [layer for layer in model._flatten_layers() if hasattr(layer, "num_positions")]
    again = sum((layer.num_positions - 1) * math.prod(layer.kernel.shape) for layer in convolutions)
    return again + sum(math.prod(variable.shape) for variable in model.trainable_variables)


def _num_batches(fit_arguments):
    """The number of batches of an epoch, as far as it is known."""
    x = fit_arguments.get("x")
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        return cardinality if cardinality > 0 else _MOST_STEPS
    if hasattr(x, "num_batches"):  # A `keras.utils.PyDataset`.
        return x.num_batches or _MOST_STEPS
    return -(-len(x) // (fit_arguments.get("batch_size") or 32)) if hasattr(x, "shape") else _MOST_STEPS


def _follows_batches(callback):
    """Whether a callback does something at each batch."""
    if not isinstance(callback, keras.callbacks.Callback):
        return True
    # A `LambdaCallback` has its functions as attributes of the instance.
    names = [name for name in dir(keras.callbacks.Callback) if re.fullmatch("on_(train_|test_)?batch_.*", name)]
    methods = [getattr(getattr(callback, name), "__func__", None) for name in names]
    own = [m for m, name in zip(methods, names, strict=True) if m is not getattr(keras.callbacks.Callback, name)]
    if any(method is None or not method.__module__.startswith("keras.") for method in own):
        return True
    # Keras' own callbacks: some act after epochs only, and a loss that is not a number stays so.
    frequency = getattr(callback, "save_freq", getattr(callback, "update_freq", None))
    return bool(own) and frequency != "epoch" and not isinstance(callback, keras.callbacks.TerminateOnNaN)
