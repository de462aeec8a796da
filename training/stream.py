"""Training data that are encoded as they come and kept nowhere, for corpora larger than the disk.

Each process reads its share of the shards in their order, again and again; while the device computes, the next batch is
read. A checkpoint has the place in the share, so that a run goes on exactly where it was. Which samples meet in a batch
depends on the number of processes, so that must stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ..guidance.errors import LimelightError
from .base import Base
from .cache import EMPTY, batches, encode, sample_view, views_of
from .problems import Report
from .task import Batch, Task

Place = dict[str, int]  # "epoch", and the "row" of the share that comes next
Found = tuple[dict[str, np.ndarray], str, Place]  # a view, its caption, the place after it


def _untold(name: str, what: str) -> None:
    """For a second look at the data."""


class Stream:
    """The data of one process. read: (rank, processes, what to tell problems to, row to begin with) -> samples.
    place: where to go on."""

    def __init__(
        self,
        read: Callable[..., Iterable[dict[str, Any]]],
        task: Task,
        base: Base,
        options: argparse.Namespace,
        rank: int,
        processes: int,
        device: torch.device,
        report: Report,
    ):
        self.read, self.task, self.base, self.options, self.report = read, task, base, options, report
        self.rank, self.processes, self.device = rank, processes, device
        self.place: Place = {"epoch": 0, "row": 0}

    def feed(self, start: int, end: int) -> Iterator[tuple[list[int], Batch]]:
        """Numbers and tensors of this process's batches from step ``start`` to before ``end``."""
        options = self.options
        self.base.encoders_to(self.device)
        found = self._found(dict(self.place))
        size, each = options.train_batch_size, options.gradient_accumulation_steps
        numbers = batches(start, end, size, each, self.rank, self.processes)
        with ThreadPoolExecutor(1) as pool:

            def ahead(taken: list[int] | None) -> Any:
                return taken and pool.submit(lambda: [self._chosen(next(found), n) for n in taken])

            taken = next(numbers, None)
            waiting = ahead(taken)
            while taken is not None:
                chosen = waiting.result()
                following = next(numbers, None)
                waiting = ahead(following)
                self.place = chosen[-1][2]
                yield taken, self._encoded([view for view, *_ in chosen], [caption for _, caption, _ in chosen])
                taken = following

    def examples(self, count: int) -> Batch:
        """The first samples of the whole data set, the same in every process and at every time."""
        self.base.encoders_to(self.device)
        views, captions = [], []
        for sample in self.read(0, 1, _untold, 0):
            try:
                views.append(views_of(self.task, sample, self.options.seed)[0])
            except LimelightError:
                continue
            captions.append(sample["text"])
            if len(views) == count:
                break
        return self._encoded(views, captions)

    def empty_text(self, count: int) -> Batch:
        """The encoded empty caption, (count, ...)."""
        return self.base.encode_text([EMPTY] * count)

    def _found(self, place: Place) -> Iterator[tuple[list[dict[str, np.ndarray]], str, Place]]:
        """All views of one sample after another, without end."""
        while True:
            usable = place["row"] > 0
            for sample in self.read(self.rank, self.processes, self.report, place["row"]):
                place = {"epoch": place["epoch"], "row": sample["row"] + 1}
                try:
                    views = views_of(self.task, sample, self.options.seed)
                except LimelightError as error:
                    self.report(sample["key"], str(error))
                    continue
                usable = True
                yield views, sample["text"], place
            if not usable:
                raise LimelightError(f"--train_data_dir: {self.options.train_data_dir} has no sample that can be used.")
            place = {"epoch": place["epoch"] + 1, "row": 0}

    def _chosen(self, found: tuple[list[dict[str, np.ndarray]], str, Place], number: int) -> Found:
        """The view of the n-th sample, and its caption or the empty one."""
        views, caption, place = found
        view, dropped = sample_view(self.options.seed, number, len(views), self.options.proportion_empty_prompts)
        return views[view], EMPTY if dropped else caption, place

    @torch.no_grad()
    def _encoded(self, views: list[dict[str, np.ndarray]], captions: list[str]) -> Batch:
        rows = encode(self.task, views)
        batch = {name: torch.stack([row[name] for row in rows]).to(self.device) for name in rows[0]}
        return batch | self.base.encode_text(captions)
