"""What the replicas and workers of a `tf.distribute` strategy share.

Without a strategy TensorFlow's default one holds, which has one replica and one worker, and nothing here does a thing.
A worker is a process, and it may have several replicas, one for each of its devices.
"""

import numpy as np
import tensorflow as tf


def num_replicas():
    """Replicas in all, as seen from within one."""
    return tf.distribute.get_replica_context().num_replicas_in_sync


def replica_share(values, axis):
    """The part of a whole batch that belongs to the replica in which this is called: equal parts, in order.

    Args:
      values: a tensor with the images of the whole batch along `axis`; their number is a multiple of the replicas'.
      axis: an integer.

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

    Args:
      strategy: the model's.

    Attributes:
      count: how many there are.
      index: which one this is, from 0.
      is_chief: whether it is the one that writes.
    """

    def __init__(self, strategy):
        resolver = strategy.cluster_resolver
        self._strategy = strategy
        self._add = tf.function(self._all_reduce)
        spec = resolver.cluster_spec().as_dict() if resolver else {}
        self.count = max(1, len(spec.get("worker", ())))
        self.index = resolver.task_id if self.count > 1 else 0
        self.is_chief = self.index == 0

    def sums(self, values):
        """Adds an array over the workers, exactly where all but one are zero.

        Args:
          values: a float or int array of this worker's, of the same shape in all.

        Returns:
          The sum, numpy, the same in all.
        """
        values = np.asarray(values)
        if self.count == 1:
            return values
        return self._strategy.experimental_local_results(self._add(tf.constant(values)))[0].numpy()

    def _all_reduce(self, values):
        replicas_of_one = self._strategy.num_replicas_in_sync // self.count

        def of_replica():
            context = tf.distribute.get_replica_context()
            # One replica speaks for its worker.
            speaks = context.replica_id_in_sync_group % replicas_of_one == 0
            said = tf.where(speaks, values, tf.zeros_like(values))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, said)

        return self._strategy.run(of_replica)

    def from_chief(self, values):
        """The chief's array in all workers; theirs has to have the same shape and type."""
        return self.sums(values if self.is_chief else np.zeros_like(values))

    def agree(self, number):
        """Whether all workers have the same integer."""
        numbers = np.zeros(self.count, np.int64)
        numbers[self.index] = number
        return len(set(self.sums(numbers).tolist())) == 1

    def any(self, number):
        """The largest of the workers' small non-negative integers."""
        numbers = np.zeros(self.count, np.int32)
        numbers[self.index] = number
        return int(self.sums(numbers).max())
