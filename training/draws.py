"""Random numbers that belong to a training sample, not to a moment.

Whatever is random about the n-th sample that a training sees is drawn from generators seeded by (seed, n). So a run
that goes on after a stop needs to know nothing but its step, and two processes with a batch of B see the very samples
that one with 2 B sees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch


class Draws:
    """The random numbers of one batch. Each method gives a tensor on the CPU or on ``device``, a row a sample, and goes
    on where the last one stopped: the order of the calls is part of a recipe.

    numbers: n of each sample. purpose: keeps numbers for different purposes apart.
    """

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device | str = "cpu", purpose: str = "loss"):
        self.numbers, self.device = list(numbers), torch.device(device)
        self._generators = [generator(seed, n, purpose) for n in self.numbers]

    def normal(self, *shape: int) -> torch.Tensor:
        """-> (B, *shape) of the standard normal distribution, on the device."""
        return self.to_device(torch.stack([torch.randn(shape, generator=one) for one in self._generators]))

    def uniform(self, *shape: int) -> torch.Tensor:
        """-> (B, *shape) in [0, 1), on the CPU: decisions can be made of them without waiting for the device."""
        return torch.stack([torch.rand(shape, generator=one) for one in self._generators])

    def each(self, make: Callable[[torch.Generator, int], torch.Tensor]) -> torch.Tensor:
        """-> (B, ...), on the CPU: what ``make`` draws for the i-th of the batch with the generator of that sample."""
        return torch.stack([make(one, i) for i, one in enumerate(self._generators)])

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """A tensor on the CPU, such as one made of `uniform`, on the device."""
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the computation
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)


def generator(seed: int, number: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(_mixed(f"{seed}/{purpose}/{number}"))


def array_generator(seed: int, key: str) -> np.random.Generator:
    """The same for numpy, of a sample's key."""
    return np.random.default_rng(_mixed(f"{seed}/{key}"))


@functools.lru_cache(2)
def order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """-> (count,): in which order an epoch goes through the data."""
    return torch.randperm(count, generator=generator(seed, epoch, "order"))


def place(seed: int, number: int, count: int) -> int:
    """Which of ``count`` data the n-th sample of a training is made of."""
    epoch, index = divmod(number, count)
    return int(order(seed, epoch, count)[index])


def _mixed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
