"""A plain PyTorch IWAE, as a user would write it, for `benchmarks.peers`.

`python -m benchmarks.torch_iwae JSON`, with the arguments of `training_rounds`, prints the seconds per step of a round,
and again for each line of the standard input.
"""

import itertools
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional

# (units, widths of the hidden layers) of each stochastic layer, as in the paper.
_LAYERS = {1: [(50, (200, 200))], 2: [(100, (200, 200)), (50, (100, 100))]}
_PIXELS = 784


class Gaussian(nn.Module):
    """q(z_l | z_{l-1}) or p(z_l | z_{l+1}) with tanh layers; returns the mean and the log standard deviation."""

    def __init__(self, inputs, hidden, units):
        super().__init__()
        self.net = _perceptron(inputs, hidden)
        self.loc, self.log_scale = nn.Linear(hidden[-1], units), nn.Linear(hidden[-1], units)

    def forward(self, x):
        features = self.net(x)
        return self.loc(features).float(), self.log_scale(features).float()


class Iwae(nn.Module):
    """The IWAE with 1 or 2 stochastic layers; calling it returns the loss of a batch [batch, pixels]."""

    def __init__(self, layers, num_samples):
        super().__init__()
        self.num_samples = num_samples
        units, hidden = zip(*_LAYERS[layers], strict=True)
        self.encoder = nn.ModuleList(map(Gaussian, (_PIXELS, *units[:-1]), hidden, units))
        self.decoder = nn.ModuleList(map(Gaussian, units[1:], hidden[1:], units[:-1]))
        self.pixels = nn.Sequential(_perceptron(units[0], hidden[0][::-1]), nn.Linear(hidden[0][0], _PIXELS))

    def forward(self, x):
        h, z, log_q = x.expand(1, *x.shape), [], 0.0
        for layer in self.encoder:
            loc, log_scale = layer(h)
            epsilon = torch.randn(self.num_samples, *loc.shape[1:])
            h = loc + log_scale.exp() * epsilon
            z.append(h)
            log_q = log_q + _log_normal(epsilon, log_scale)
        log_p = _log_normal(z[-1], torch.zeros(()))
        for layer, above, below in zip(self.decoder, z[1:], z[:-1], strict=True):
            loc, log_scale = layer(above)
            log_p = log_p + _log_normal((below - loc) / log_scale.exp(), log_scale)
        logits = self.pixels(z[0]).float()
        log_p = log_p - functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
            -1
        )
        return -(torch.logsumexp(log_p - log_q, dim=0) - math.log(self.num_samples)).mean()


def _perceptron(inputs, hidden):
    widths = (inputs, *hidden)
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers)


def _log_normal(standardized, log_scale):
    """The log-density of a normal at a standardized value, summed over the last axis."""
    return (-0.5 * standardized.square() - log_scale - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def training_rounds(layers, num_samples, batch, steps, compiled=False, autocast=False):
    """Yields the seconds per step of rounds of training steps.

    Args:
      layers: 1 or 2.
      num_samples: importance samples per image.
      batch: images per step.
      steps: steps in a round.
      compiled: whether to use `torch.compile`.
      autocast: whether the products are in bfloat16.
    """
    torch.manual_seed(0)
    model = Iwae(layers, num_samples)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4, fused=True)
    loss_of = torch.compile(model) if compiled else model
    grey = torch.rand(1000, _PIXELS) ** 4

    def step():
        x = torch.bernoulli(grey[torch.randint(len(grey), (batch,))])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    while True:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        yield (time.perf_counter() - start) / steps


def main():
    output, sys.stdout = sys.stdout, sys.stderr  # PyTorch may print, too.
    for seconds in training_rounds(**json.loads(sys.argv[1])):
        print(seconds, file=output, flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
