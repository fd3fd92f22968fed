"""How Keras' `fit`, `evaluate` and `train_on_batch` run the steps of the model.

Keras compiles one step and calls it for every batch, which for small models takes as long as the step itself. Here an
execution of several steps (`steps_per_execution`) reads their batches, checks them, and runs all steps in one compiled
call, as the package's own training does.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import inputs

# The most steps and operations in one execution, unless the user sets the number of steps. An execution should last at
# most about a second, so that the progress bar moves.
_MOST_STEPS = 100
_MOST_OPERATIONS = 1e11
# The batch size to reckon with where the data do not tell theirs.
_USUAL_BATCH = 100


class Execution:
    """What Keras calls for each execution: a function of an iterator over batches that returns the metrics.

    Args:
      model: has `checked`, `get_metrics_result`, `jit_compile`, `run_eagerly` and `steps_per_execution`.
      step: `train_step` or `test_step` of the model.

    Attributes:
      num_steps: the number of steps in an execution.
    """

    num_steps: int

    def __init__(self, model: keras.Model, step: Callable[[Any], Any]) -> None:
        self.num_steps = model.steps_per_execution
        self._model = model
        if model.run_eagerly:
            self._step, self._one = step, self._run_one
            return
        # The outer functions hold assertions, which XLA would remove.
        self._step = _compiled(step, model.jit_compile)
        self._steps = _compiled(self._loop, model.jit_compile)
        self._one = _compiled(self._run_one)
        run_next = self._run_several if self.num_steps > 1 else self._run_next
        # One trace for each kind of data: a common one would not know their shapes.
        self._next = _compiled(run_next, reduce_retracing=False)

    def __call__(self, iterator: Iterator[Any]) -> dict[str, tf.Tensor]:
        with inputs.one_sentence():
            if isinstance(iterator, tf.data.Iterator) and not self._model.run_eagerly:
                return self._next(iterator)
            logs = None
            for data in itertools.islice(iterator, self.num_steps):
                logs = self._one(tf.nest.map_structure(_as_tensor, data))
            if logs is None:
                raise StopIteration
            return logs

    def _run_next(self, iterator):
        """Runs the step on the next batch."""
        return self._run_one(iterator.get_next())

    def _run_one(self, data):
        """Runs the step on one batch."""
        self._model.distribute_strategy.run(lambda batch: self._step(_as_data(self._arrays(batch))), (data,))
        return self._model.get_metrics_result()

    def _run_several(self, iterator):
        """Runs the step on the next batches: as many as there are, up to one of another size."""
        first = self._arrays(iterator.get_next())
        stacks = [tf.TensorArray(a.dtype, self.num_steps, element_shape=a.shape).write(0, a) for a in first]
        nothing = [_without_images(array) for array in first]

        def read(count, is_open, stacks, last):
            following = iterator.get_next_as_optional()
            batch = tf.cond(following.has_value(), lambda: self._arrays(following.get_value()), lambda: nothing)
            # The arrays of a compiled call have one shape, so a smaller batch is kept for a call of its own.
            is_open = tf.equal(tf.shape(batch[0])[0], tf.shape(first[0])[0])
            stacks, last = tf.cond(is_open, lambda: (_written(stacks, count, batch), last), lambda: (stacks, batch))
            return count + tf.cast(is_open, tf.int32), is_open, stacks, last

        count, _, stacks, last = tf.while_loop(
            lambda count, is_open, *_: is_open & (count < self.num_steps),
            read,
            (tf.constant(1), tf.constant(True), stacks, nothing),
        )
        self._steps([stack.stack() for stack in stacks], count)
        tf.cond(tf.shape(last[0])[0] > 0, lambda: self._run_last(last), tf.no_op)
        return self._model.get_metrics_result()

    def _run_last(self, arrays):
        self._step(_as_data(arrays))
        return tf.no_op()

    def _loop(self, stacks, count):
        """Runs the step on the first `count` batches of arrays [num_steps, batch, ...]."""

        def run(i):
            self._step(_as_data([tf.gather(stack, i) for stack in stacks]))
            return [i + 1]

        tf.while_loop(lambda i: i < count, run, [0])

    def _arrays(self, data):
        """The images of a batch, and their weights if there are any."""
        x, sample_weight = self._model.checked(data)
        return [x] if sample_weight is None else [x, sample_weight]


def _as_data(arrays):
    """What `Execution._arrays` returned, in the form that a step takes."""
    x, *sample_weight = arrays
    return (x, None, *sample_weight) if sample_weight else (x,)


def _without_images(array):
    """No images, in a tensor whose static shape allows any number of them, as a loop needs."""
    return tf.compat.v1.placeholder_with_default(array[:0], [None, *array.shape[1:]])


def _written(stacks, index, batch):
    return [stack.write(index, array) for stack, array in zip(stacks, batch, strict=True)]


def _as_tensor(part):
    # A distributed batch and an absent target are no arrays.
    is_array = isinstance(part, (np.ndarray, np.generic, list, int, float))
    return tf.convert_to_tensor(part) if is_array else part


def _compiled(function, jit_compile=False, reduce_retracing=True):
    return tf.function(function, jit_compile=jit_compile, autograph=False, reduce_retracing=reduce_retracing)


class StepwiseModel(keras.Model):
    """A `keras.Model` whose `train_step` and `test_step` define its loss and metrics, and run in an `Execution`.

    A subclass has `checked`, which returns the images and the weights of a batch, and `event_size`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.jit_compile = not tf.distribute.has_strategy()
        self._has_automatic_execution = True
        self._executions: dict[tuple[str, int], Execution] = {}

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
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
            `steps_per_execution`.
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
        has_strategy = self.distribute_strategy.num_replicas_in_sync > 1
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=1 if self._has_automatic_execution else steps_per_execution,
            jit_compile=not run_eagerly and not has_strategy if jit_compile == "auto" else jit_compile,
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

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.build((None, self.event_size))
        super().save(*args, **kwargs)

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
        if not self._has_automatic_execution:
            return super().fit(**arguments)
        self.steps_per_execution = steps_per_execution(self, arguments)
        try:
            return super().fit(**arguments)
        finally:
            self.steps_per_execution = 1

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`, with the metrics of `fit`."""
        bound = inspect.signature(super().evaluate).bind(*args, **kwargs)
        bound.apply_defaults()
        private = bound.arguments.pop("kwargs")
        return super().evaluate(**_with_targets(bound.arguments), **private)

    def make_train_function(self, force: bool = False) -> None:
        self.train_function = self._execution("train_step", force)

    def make_test_function(self, force: bool = False) -> None:
        self.test_function = self._execution("test_step", force)

    def _execution(self, name, force):
        """The `Execution` of a step, kept from earlier calls, as compiling it takes seconds."""
        key = name, self.steps_per_execution
        if force or key not in self._executions:
            self._executions[key] = Execution(self, getattr(self, name))
        return self._executions[key]

    def make_predict_function(self, force: bool = False) -> None:
        if self.predict_function is not None and not force:
            return
        super().make_predict_function(force)
        predict = self.predict_function
        # XLA would remove the checks of `call`.
        self.predict_function = lambda batches: predict([(self.checked(batch)[0],) for batch in batches])


def _with_targets(arguments):
    """The arguments of `fit` or `evaluate`, with targets if there are weights: Keras drops weights without targets."""
    if arguments.get("sample_weight") is not None and arguments.get("y") is None:
        arguments["y"] = np.zeros(len(arguments["x"]))
    return arguments


def steps_per_execution(model: keras.Model, fit_arguments: dict[str, Any]) -> int:
    """Returns how many steps of `fit` one execution can run without a difference that the user would see.

    Args:
      model: has `num_samples`.
      fit_arguments: the arguments of `fit`, name -> value.

    Returns:
      1 if a callback follows single batches or there is a strategy. Otherwise the steps of about a second, at most
      100; the steps of an epoch and of a validation, where the user gives them, are multiples of it.
    """
    callbacks = fit_arguments.get("callbacks") or []
    if model.distribute_strategy.num_replicas_in_sync > 1 or any(map(_follows_batches, tf.nest.flatten(callbacks))):
        return 1
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    batch = fit_arguments.get("batch_size") or _USUAL_BATCH
    most = np.clip(_MOST_OPERATIONS / (6 * weights * model.num_samples * batch), 1, _MOST_STEPS)
    given = [fit_arguments.get(name) or 0 for name in ("steps_per_epoch", "validation_steps")]
    whole = math.gcd(*given, keras.config.max_steps_per_epoch() or 0)
    return max(n for n in range(1, int(most) + 1) if whole % n == 0)


def _follows_batches(callback):
    """Whether a callback does something at each batch."""
    if not isinstance(callback, keras.callbacks.Callback):
        return True
    if isinstance(callback, keras.callbacks.TerminateOnNaN):
        return False  # A loss that is not a number stays so.
    if getattr(callback, "save_freq", getattr(callback, "update_freq", None)) == "epoch":
        return False
    # A `LambdaCallback` has its functions as attributes of the instance.
    methods = [name for name in dir(keras.callbacks.Callback) if re.fullmatch("on_(train_|test_)?batch_.*", name)]
    own = [getattr(getattr(callback, name), "__func__", None) for name in methods]
    return any(f is not getattr(keras.callbacks.Callback, name) for f, name in zip(own, methods, strict=True))
