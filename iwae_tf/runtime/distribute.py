"""Communication between the replicas and workers of a `tf.distribute` strategy.

A worker is a process; it may have several replicas, one for each of its devices. Without a strategy, there is one
worker with one replica, and these functions return their arguments unchanged.
"""

from typing import Any

import numpy as np
import tensorflow as tf


def num_replicas() -> int:
    """Returns the total number of replicas; to be called within a replica."""
    return tf.distribute.get_replica_context().num_replicas_in_sync


def replica_share(values: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the calling replica's part of a whole batch. The parts are of equal size and in order.

    Args:
      values: a tensor with the images of the whole batch along `axis`; their number is a multiple of the number of
        replicas.
      axis: the axis of the images.

    Returns:
      A tensor with fewer images.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    size = tf.shape(values)[axis] // context.num_replicas_in_sync
    first = tf.cast(context.replica_id_in_sync_group, tf.int32) * size
    return tf.gather(values, first + tf.range(size), axis=axis)


class Workers:
    """The processes that train one model together.

    The methods communicate: every worker has to call them, and in the same order.

    Args:
      strategy: the model's `tf.distribute` strategy.

    Attributes:
      count: the number of workers.
      index: the number of this worker, from 0.
      is_chief: whether this worker writes the files.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        resolver = strategy.cluster_resolver
        self._strategy = strategy
        self._compiled_sums = tf.function(self._all_reduce)
        spec = resolver.cluster_spec().as_dict() if resolver else {}
        self.count = max(1, len(spec.get("worker", ())))
        self.index = resolver.task_id if self.count > 1 else 0
        self.is_chief = self.index == 0

    def sums(self, arrays: Any) -> Any:
        """Adds arrays over the workers. The sum is exact if all but one of the terms are zero.

        Args:
          arrays: a float or int array, or a dict, list or tuple of arrays, which are all added in one call. The
            structure, shapes and types are the same in all workers.

        Returns:
          The sums, numpy arrays in the same structure; the same in all workers.
        """
        arrays = tf.nest.map_structure(np.asarray, arrays)
        if self.count == 1:
            return arrays
        sums = self._compiled_sums([tf.constant(array) for array in tf.nest.flatten(arrays)])
        values = [self._strategy.experimental_local_results(total)[0].numpy() for total in sums]
        return tf.nest.pack_sequence_as(arrays, values)

    def _all_reduce(self, tensors):
        replicas_per_worker = self._strategy.num_replicas_in_sync // self.count

        def sums_in_replica():
            context = tf.distribute.get_replica_context()
            # Each worker counts once: the terms of its other replicas are zero.
            is_first = context.replica_id_in_sync_group % replicas_per_worker == 0
            terms = [tf.where(is_first, tensor, tf.zeros_like(tensor)) for tensor in tensors]
            sums = list(terms)
            # TensorFlow packs the tensors of a call into one, so they must have the same type.
            for dtype in dict.fromkeys(term.dtype for term in terms):
                indices = [i for i, term in enumerate(terms) if term.dtype == dtype]
                totals = context.all_reduce(tf.distribute.ReduceOp.SUM, [terms[i] for i in indices])
                for i, total in zip(indices, totals, strict=True):
                    sums[i] = total
            return sums

        return self._strategy.run(sums_in_replica)

    def from_chief(self, arrays: Any) -> Any:
        """Returns the chief's arrays in all workers.

        Args:
          arrays: as for `sums`; only the chief's values matter.
        """
        return self.sums(arrays if self.is_chief else tf.nest.map_structure(np.zeros_like, arrays))

    def agree(self, number: int) -> bool:
        """Returns whether all workers have the same integer."""
        numbers = np.zeros(self.count, np.int64)
        numbers[self.index] = number
        return len(set(self.sums(numbers).tolist())) == 1

    def any(self, number: int) -> int:
        """Returns the largest of the workers' small non-negative integers."""
        numbers = np.zeros(self.count, np.int32)
        numbers[self.index] = number
        return int(self.sums(numbers).max())
