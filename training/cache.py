"""What training reads again and again, encoded once and kept on disk: latents and hints by view, text by caption.

The folder's name is a digest of everything that its contents depend on, so that other data, another base model or other
settings never meet old entries. It holds shards of safetensors, each written whole or not at all; making it goes on
where it stopped. Several processes write shards of their own; the order of the data is that of their keys.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tqdm import tqdm

from ..guidance.errors import LimelightError
from ..models import files
from .base import Base
from .draws import Draws, array_generator, place
from .problems import Report
from .task import Batch, Task

SHARD = 512  # views a shard
BATCH = 8  # views or captions that are encoded together
PIXELS = 4 * 512**2  # of views that are: the autoencoder takes more memory than any training step
EMPTY = ""


def folder_for(root: Path, **contents: Any) -> Path:
    """The cache's folder for what its contents depend on; its description is kept in it."""
    text = json.dumps(contents, sort_keys=True, default=str)
    folder = root / blake2b(text.encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contents.json").write_text(text, encoding="utf-8")
    return folder


def fill(
    folder: Path,
    samples: Iterable[dict[str, Any]],
    task: Task,
    seed: int,
    dtype: torch.dtype,
    report: Report,
    rank: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> None:
    """Encode the samples that the folder does not have yet.

    samples: this process's share, from `next_row` on. dtype: of tensors of floating point on disk. report: told of
    samples that the task refuses.
    """
    known = {key for about in _abouts(folder, "views") for key in about["keys"]}
    writer = _Shards(folder, f"views-{rank:03}", dtype, processes)
    waiting: list[tuple[dict[str, Any], list]] = []

    def flush() -> None:
        encoded = iter(encode(task, [view for _, views in waiting for view in views]))
        for sample, views in waiting:
            writer.add(sample["key"], sample["text"], [next(encoded) for _ in views], sample["row"])
        waiting.clear()

    for sample in tqdm(samples, desc="encoding", unit="sample", disable=not progress):
        key = sample["key"]
        if key in known:
            continue
        try:
            views = views_of(task, sample, seed)
        except LimelightError as error:
            report(key, str(error))
            continue
        known.add(key)
        waiting.append((sample, views))
        if sum(len(views) for _, views in waiting) >= BATCH:
            flush()
    flush()
    writer.close()


def next_row(folder: Path, rank: int, processes: int) -> int:
    """Up to which row of its share a process has everything already, if there were as many of them."""
    shards = [about["place"] for about in _abouts(folder, f"views-{rank:03}")]
    return max((row + 1 for shared, row in shards if shared == processes), default=0)


def views_of(task: Task, sample: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """The task's views of a sample. Raises LimelightError for one that it refuses, and for a picture that would have to
    be enlarged."""
    width, height = task.settings.get("resolution", (0, 0))
    across, down = sample["image"].size
    if across < width or down < height:
        raise LimelightError(f"smaller than --resolution: it is {across}x{down}, wanted are {width}x{height}")
    return task.views(sample, array_generator(seed, sample["key"]))


def encode(task: Task, views: list[dict[str, Any]]) -> list[Batch]:
    """The task's `encode`, a few views at a time."""
    width, height = task.settings.get("resolution", (512, 512))
    size = min(BATCH, max(1, PIXELS // (width * height)))
    return [row for start in range(0, len(views), size) for row in task.encode(views[start : start + size])]


def fill_text(folder: Path, base: Base, dtype: torch.dtype, rank: int = 0, processes: int = 1) -> None:
    """Encode this process's share of the captions that the views have, and of the empty one."""
    wanted = sorted({caption for about in _abouts(folder, "views") for caption in about["captions"]} | {EMPTY})
    known = {caption for about in _abouts(folder, "text") for caption in about["keys"]}
    missing = [caption for caption in wanted[rank::processes] if caption not in known]
    writer = _Shards(folder, f"text-{rank:03}", dtype)
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        encoded = {name: value.cpu() for name, value in base.encode_text(part).items()}
        for i, caption in enumerate(part):
            writer.add(caption, caption, [{name: value[i] for name, value in encoded.items()}])
    writer.close()


class _Shards:
    """Writes entries into shards of at least `SHARD` rows."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype, processes: int = 1):
        self.folder, self.name, self.dtype, self.processes = folder, name, dtype, processes
        self.number = len(list(folder.glob(f"{name}-*.safetensors")))
        self._start()

    def _start(self) -> None:
        self.rows: list[dict[str, torch.Tensor]] = []
        self.about: dict[str, list] = {"keys": [], "captions": [], "counts": []}

    def add(self, key: str, caption: str, rows: list[dict[str, torch.Tensor]], row: int = 0) -> None:
        """row: of the source, which has been read up to there."""
        for one in rows:
            if self.rows and {n: v.shape for n, v in one.items()} != {n: v.shape for n, v in self.rows[0].items()}:
                raise LimelightError(f"{key}: found pictures of another size than those before. Use one resolution.")
        self.rows += rows
        for name, value in zip(("keys", "captions", "counts"), (key, caption, len(rows)), strict=True):
            self.about[name].append(value)
        self.about["place"] = [self.processes, row]
        if len(self.rows) >= SHARD:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if not self.rows:
            return
        path = self.folder / f"{self.name}-{self.number:05}.safetensors"
        tensors = {name: torch.stack([row[name] for row in self.rows]).cpu() for name in self.rows[0]}
        kept = {n: v.to(self.dtype) if v.is_floating_point() else v for n, v in tensors.items()}
        try:
            files.write_whole(path, kept, {"about": json.dumps(self.about)})
        except Exception as error:
            raise LimelightError(
                f"--cache_dir: {path} could not be written ({error}). Make room, or choose another folder; what is "
                "cached already is kept."
            ) from error
        self.number += 1
        self._start()


class Cache(torch.utils.data.Dataset):
    """A filled folder as the samples of a training: item n is what its n-th sample is made of, for ever."""

    place = None  # nothing but the step says where a training is

    def __init__(
        self,
        folder: Path,
        options: argparse.Namespace,
        rank: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.options, self.rank, self.processes, self.device = options, rank, processes, torch.device(device)
        self.groups: list[tuple[str, int, int, int, str]] = []  # key, shard, first row, rows, caption
        self._paths = sorted(folder.glob("views-*.safetensors"))
        for number, about in enumerate(_abouts(folder, "views")):
            row = 0
            for key, caption, count in zip(about["keys"], about["captions"], about["counts"], strict=True):
                self.groups.append((key, number, row, count, caption))
                row += count
        self.groups.sort()
        self._text: dict[str, tuple[int, int]] = {}
        for number, about in enumerate(_abouts(folder, "text"), start=len(self._paths)):
            self._text |= {caption: (number, row) for row, caption in enumerate(about["keys"])}
        self._paths += sorted(folder.glob("text-*.safetensors"))
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.groups)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # open files do not go to another process

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """The n-th sample of the training: "number" and the tensors of one view and its caption."""
        seed = self.options.seed
        group = self.groups[place(seed, number, len(self.groups))]
        view, dropped = sample_view(seed, number, group[3], self.options.proportion_empty_prompts)
        return {"number": torch.tensor(number)} | self.read(group, view, dropped)

    def feed(self, start: int, end: int) -> Iterator[tuple[list[int], Batch]]:
        """Numbers and tensors of this process's batches from step ``start`` to before ``end``, on the device; copied
        while it computes."""
        given, on_gpu = self.options, self.device.type == "cuda"
        each = given.train_batch_size, given.gradient_accumulation_steps
        numbers = batches(start, end, *each, self.rank, self.processes)
        loader = torch.utils.data.DataLoader(
            self, batch_sampler=numbers, num_workers=given.dataloader_num_workers, pin_memory=on_gpu
        )
        for batch in loader:
            taken = batch.pop("number").tolist()
            yield taken, {name: value.to(self.device, non_blocking=on_gpu) for name, value in batch.items()}

    def examples(self, count: int) -> Batch:
        """Some samples, the same each time: evenly spread over the data."""
        count = min(count, len(self))
        rows = [self.read(self.groups[i * len(self) // count]) for i in range(count)]
        return {name: torch.stack([row[name] for row in rows]).to(self.device) for name in rows[0]}

    def read(self, group: tuple, view: int = 0, dropped: bool = False) -> dict[str, torch.Tensor]:
        """One view of an entry of `groups`, with its caption or with the empty one."""
        _, shard, row, _, caption = group
        return self._row(shard, row + view) | self._row(*self._text[EMPTY if dropped else caption])

    def empty_text(self, count: int) -> dict[str, torch.Tensor]:
        """The encoded empty caption, (count, ...)."""
        row = self._row(*self._text[EMPTY])
        return {name: value[None].repeat_interleave(count, 0).to(self.device) for name, value in row.items()}

    def _row(self, shard: int, row: int) -> dict[str, torch.Tensor]:
        if shard not in self._open:
            self._open[shard] = safe_open(self._paths[shard], "pt")
        file = self._open[shard]
        return {name: file.get_slice(name)[row : row + 1][0] for name in file.keys()}


def batches(start: int, end: int, batch: int, accumulate: int, rank: int, processes: int) -> Iterator[list[int]]:
    """Numbers of the samples of this process's batches from step ``start`` to before ``end``."""
    for micro in range(start * accumulate, end * accumulate):
        first = (micro * processes + rank) * batch
        yield list(range(first, first + batch))


def sample_view(seed: int, number: int, count: int, drop: float) -> tuple[int, bool]:
    """Which of ``count`` views the n-th sample is, and whether its caption is left out (a share ``drop`` of them)."""
    view, dropped = Draws(seed, [number], purpose="view").uniform(2)[0].tolist()
    return int(view * count), dropped < drop


def source_fingerprint(source: str | Path) -> str:
    """Of a data set: names, sizes and times of its files; a name that is no folder stands for itself."""
    digest, root = blake2b(digest_size=8), Path(source)
    digest.update(str(source).encode() if not root.is_dir() else b"")
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        if path.is_file():
            status = path.stat()
            digest.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _abouts(folder: Path, kind: str) -> list[dict[str, list]]:
    found = []
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        with safe_open(path, "pt") as file:
            found.append(json.loads(file.metadata()["about"]))
    return found
