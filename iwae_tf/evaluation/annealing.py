"""Annealed importance sampling of log p(x), and bounds from both sides.

Epsilon, the standard normal numbers that become samples of z, is where the chains move, since there

    p(x) = E[exp(l(epsilon))],  epsilon ~ N(0, I),

for any number of layers and any networks. If epsilon drives the inference network, l = log p(x, z) - log q(z | x); if
it drives the generative network, l = log p(x | z_1). The intermediate densities f_b = N(0, I) exp(b l) lead from
q(z | x), or the prior p(z), at b = 0 to the posterior p(z | x) at b = 1.

#### References

[1]: Radford Neal. Annealed Importance Sampling. Statistics and Computing, 2001.
[2]: Yuhuai Wu, Yuri Burda, Ruslan Salakhutdinov, Roger Grosse. On the Quantitative Analysis of Decoder-Based
  Generative Models. arXiv:1611.04273.
[3]: Roger Grosse, Zoubin Ghahramani, Ryan Adams. Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo.
  arXiv:1511.02543.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import models, noise, products

STARTS = ("posterior", "prior")
# The share of proposals that should be accepted; HMC is most efficient between 0.65 and 0.8.
_TARGET_ACCEPTANCE = 0.7
# How fast the logarithm of a step size follows the acceptance in the pilot run.
_ADAPTATION_RATE = 0.1
_FIRST_STEP_SIZE = 0.3


def temperatures(count: int, sharpness: float = 4.0) -> np.ndarray:
    """Returns 0 = b_0 < b_1 < ... < b_count = 1 on a sigmoid, as in [2]: close together at both ends."""
    curve = np.tanh(0.5 * sharpness * np.linspace(-1.0, 1.0, count + 1))
    return (curve - curve[0]) / (curve[-1] - curve[0])


class Chains(NamedTuple):
    """The state of the chains of some images.

    Attributes:
      epsilon: [num_chains, num_images, d], the layers side by side.
      value: l at epsilon in nats, [num_chains, num_images].
      gradient: its gradient, as epsilon.
      log_weights: sum_t (b_t - b_(t-1)) l so far, in nats, [num_chains, num_images].
      log_step_size: the logarithm of the step size of the next transition, [num_images].
      acceptance: the sum of the acceptance probabilities so far, averaged over the chains, [num_images].
    """

    epsilon: tf.Tensor
    value: tf.Tensor
    gradient: tf.Tensor
    log_weights: tf.Tensor
    log_step_size: tf.Tensor
    acceptance: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The transitions of a run.

    Attributes:
      temperatures: b_0, ..., b_T, float array [T + 1].
      num_leapfrog: leapfrog steps in a transition.
      start: one of `STARTS`.
    """

    temperatures: np.ndarray
    num_leapfrog: int
    start: str = "posterior"

    @property
    def num_transitions(self) -> int:
        """T."""
        return len(self.temperatures) - 1


class Annealer:
    """Runs chains for the images of one compiled call.

    Args:
      model: the trained model.
      schedule: a `Schedule`.
      seed: seed of all random numbers.
    """

    schedule: Schedule

    def __init__(self, model: models.ImportanceWeightedAutoencoder, schedule: Schedule, seed: int = 0) -> None:
        self._model, self.schedule, self._seed = model, schedule, seed
        self._run = tf.function(self._transitions, jit_compile=model.jit_compile, autograph=False)
        self._begin = tf.function(self._chains_at, jit_compile=model.jit_compile, autograph=False)

    def begin(self, x: np.ndarray, num_chains: int, group: int, purpose: str) -> Chains:
        """Returns chains that start at N(0, I), that is at q(z | x) or at the prior.

        Args:
          x: float array [num_images, event].
          num_chains: the number of chains of each image.
          group: the number of these images' group; other groups have other random numbers.
          purpose: "pilot", "forward" or "reverse".
        """
        size = [num_chains, len(x), sum(self._model.inference.latent_dims)]
        return self._begin(x, noise.normal(size, self._key(purpose, group, 0)))

    def begin_at(self, x: np.ndarray, z: Sequence[np.ndarray], num_chains: int) -> Chains:
        """Returns chains that start at samples of the posterior, for `reverse` runs.

        Args:
          x: float array [num_images, event], drawn from p(x | z_1).
          z: a sample of the prior for each image, L arrays [num_images, d_l].
          num_chains: the number of chains of each image.
        """
        z = [tf.convert_to_tensor(z_l)[tf.newaxis] for z_l in z]
        if self.schedule.start == "prior":
            distributions = self._model.generative(z)[1:]
        else:
            distributions = self._model.inference.distributions(tf.convert_to_tensor(x), z)
        epsilon = [p.bijector.inverse(z_l) for p, z_l in zip(distributions, z, strict=True)]
        return self._begin(x, tf.cast(tf.repeat(tf.concat(epsilon, axis=-1), num_chains, axis=0), tf.float32))

    def pilot(self, x: np.ndarray, chains: Chains, first: int, stop: int, group: int) -> tuple[Chains, np.ndarray]:
        """Takes the transitions first, ..., stop - 1 and adapts the step size of each image.

        Adapting while measuring would bias the measurement. So it is done in a run of its own, with random numbers of
        its own.

        Returns:
          The chains, and the step sizes of the transitions, [stop - first, num_images].
        """
        unused = tf.zeros([self.schedule.num_transitions, len(x)])
        chains, step_sizes = self._run(
            x,
            chains,
            unused,
            tf.constant(first),
            tf.constant(stop),
            self._key("pilot", group),
            is_pilot=True,
            is_reverse=False,
        )
        return chains, step_sizes.numpy()[first:stop]

    def forward(
        self, x: np.ndarray, chains: Chains, step_sizes: np.ndarray, first: int, stop: int, group: int
    ) -> Chains:
        """Takes the transitions first, ..., stop - 1 from b = 0 to 1; afterwards, E[exp(log_weights)] = p(x) [1].

        Args:
          x: float array [num_images, event].
          chains: the `Chains` after the first `first` transitions.
          step_sizes: of all transitions, from `pilot`, [num_transitions, num_images].
          first: the first transition.
          stop: the one after the last.
          group: as for `begin`.
        """
        return self._frozen(x, chains, step_sizes, first, stop, self._key("forward", group), is_reverse=False)

    def reverse(
        self, x: np.ndarray, chains: Chains, step_sizes: np.ndarray, first: int, stop: int, group: int
    ) -> Chains:
        """The same from b = 1 to 0, begun at samples of the posterior; E[exp(-log_weights)] = 1 / p(x) [3]."""
        return self._frozen(x, chains, step_sizes, first, stop, self._key("reverse", group), is_reverse=True)

    def _frozen(self, x, chains, step_sizes, first, stop, key, is_reverse):
        arguments = tf.constant(step_sizes, tf.float32), tf.constant(first), tf.constant(stop), key
        return self._run(x, chains, *arguments, is_pilot=False, is_reverse=is_reverse)[0]

    def _key(self, purpose, group, *counters):
        return noise.key(self._seed, f"annealing {purpose}", group, *counters)

    def _chains_at(self, x, epsilon):
        value, gradient = self._value_and_gradient(x, epsilon)
        of_images = tf.zeros(tf.shape(x)[:1])
        log_step_size = of_images + np.float32(np.log(_FIRST_STEP_SIZE))
        return Chains(epsilon, value, gradient, tf.zeros_like(value), log_step_size, of_images)

    def _transitions(self, x, chains, step_sizes, first, stop, key, is_pilot, is_reverse):
        """Takes transitions; returns the chains, and the step sizes that were used, [num_transitions, num_images]."""
        count = self.schedule.num_transitions
        b = tf.constant(self.schedule.temperatures, tf.float32)
        increments = tf.constant(np.diff(self.schedule.temperatures), tf.float32)

        def one(i, chains, used):
            t = count - i if is_reverse else i + 1
            step_size = tf.exp(chains.log_step_size) if is_pilot else step_sizes[t - 1]
            if not is_reverse:
                chains = _weighted(chains, increments[t - 1])
            chains, acceptance = self._transition(x, chains, b[t], step_size, noise.fold_in(key, i + 1))
            if is_reverse:
                chains = _weighted(chains, increments[t - 1])
            if is_pilot:
                step = chains.log_step_size + _ADAPTATION_RATE * (acceptance - _TARGET_ACCEPTANCE)
                chains = chains._replace(log_step_size=step)
                used = tf.tensor_scatter_nd_update(used, [[t - 1]], step_size[tf.newaxis])
            return i + 1, chains, used

        _, chains, used = tf.while_loop(lambda i, *_: i < stop, one, [first, chains, step_sizes])
        return chains, used

    def _transition(self, x, chains, b, step_size, key):
        """One step of Hamiltonian Monte Carlo that leaves f_b invariant.

        tfp.mcmc's kernel would compute the gradient once more in each transition, because the target changes; here the
        gradient of l is kept, and that of log f_b follows from it.

        Returns:
          The chains, and the mean acceptance probability of each image.
        """
        momentum = noise.normal(tf.shape(chains.epsilon), noise.fold_in(key, 0))
        step = step_size[:, tf.newaxis]

        def leapfrog(i, epsilon, _, gradient, momentum):
            momentum += 0.5 * step * (b * gradient - epsilon)
            epsilon += step * momentum
            value, gradient = self._value_and_gradient(x, epsilon)
            return i + 1, epsilon, value, gradient, momentum + 0.5 * step * (b * gradient - epsilon)

        _, epsilon, value, gradient, last = tf.while_loop(
            lambda i, *_: i < self.schedule.num_leapfrog, leapfrog, [0, *chains[:3], momentum]
        )
        log_ratio = b * (value - chains.value) - 0.5 * tf.reduce_sum(
            tf.square(epsilon) - tf.square(chains.epsilon) + tf.square(last) - tf.square(momentum), axis=-1
        )
        # A trajectory that leaves the numbers is rejected.
        probability = tf.where(tf.math.is_nan(log_ratio), 0.0, tf.exp(tf.minimum(log_ratio, 0.0)))
        is_accepted = noise.uniform(tf.shape(value), noise.fold_in(key, 1)) < probability
        chosen = [
            tf.where(is_accepted[..., tf.newaxis] if new.shape.rank == 3 else is_accepted, new, old)
            for new, old in zip((epsilon, value, gradient), chains[:3], strict=True)
        ]
        acceptance = tf.reduce_mean(probability, axis=0)
        return Chains(*chosen, *chains[3:5], chains.acceptance + acceptance), acceptance

    def _value_and_gradient(self, x, epsilon):
        """l and its gradient at epsilon [num_chains, num_images, d]."""
        with products.fast_gradients(), tf.GradientTape() as tape:
            tape.watch(epsilon)
            layers = tf.split(epsilon, self._model.inference.latent_dims, axis=-1)
            if self.schedule.start == "prior":
                value = self._model.generative.sample(layers).log_prob(x)
            else:
                value = self._model.log_weight_terms(x, layers).log_weights
            # The chains are in float32 even if the model is not.
            value = tf.cast(value, tf.float32)
        return value, tape.gradient(value, epsilon)


def _weighted(chains, increment):
    return chains._replace(log_weights=chains.log_weights + increment * chains.value)


def simulated(
    model: models.ImportanceWeightedAutoencoder, num_images: int, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draws images from the model, with the samples that they were drawn from.

    Returns:
      x [num_images, event], and z, L arrays [num_images, d_l]: an exact sample of p(z | x).
    """
    key = noise.key(seed, "simulated")
    epsilon = [epsilon_l[0] for epsilon_l in model.draw_epsilon(1, num_images, key)]
    z = model.generative.sample_latents(epsilon)
    x = model.generative.decode(z[0]).sample(seed=noise.fold_in(key, len(epsilon)))
    return tf.cast(x, model.density_dtype).numpy(), [z_l.numpy() for z_l in z]


class Estimate(NamedTuple):
    """log p(x) of each image from its chains, float64 [num_images].

    Attributes:
      values: the logarithm of the mean weight, in nats.
      stderrs: its standard error over the chains, in nats.
      effective_sample_sizes: of the chains, from 1 to their number.
    """

    values: np.ndarray
    stderrs: np.ndarray
    effective_sample_sizes: np.ndarray


def lower(log_weights: np.ndarray) -> Estimate:
    """Returns what forward chains say: in expectation a lower bound on log p(x) [1].

    Args:
      log_weights: [num_chains, num_images].
    """
    log_weights = np.asarray(log_weights, np.float64)
    largest = log_weights.max(axis=0)
    weights = np.exp(log_weights - largest)
    mean = weights.mean(axis=0)
    count = len(weights)
    # The delta method: the deviation of a logarithm is the relative deviation.
    deviation = weights.std(axis=0, ddof=1) if count > 1 else np.full_like(mean, np.nan)
    sizes = weights.sum(axis=0) ** 2 / np.square(weights).sum(axis=0)
    return Estimate(largest + np.log(mean), deviation / (mean * np.sqrt(count)), sizes)


def upper(log_weights: np.ndarray) -> np.ndarray:
    """Returns what reverse chains say, float64 [num_images]: in expectation an upper bound on log p(x) [3].

    All chains of an image begin at the same sample, so they do not tell the error of this bound.

    Args:
      log_weights: [num_chains, num_images].
    """
    return -lower(-np.asarray(log_weights, np.float64)).values
