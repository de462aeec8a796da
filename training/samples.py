"""Reading training data, one sample after another: an imagefolder with metadata, or WebDataset shards.

    imagefolder   FOLDER/**/metadata.jsonl, a line a sample: {"file_name": "a.jpg", "text": "a dog",
                  "saliency_file_name": "a.saliency.png"}; names relative to the metadata file (.csv and .parquet too)
    WebDataset    FOLDER/**/*.tar, with KEY.jpg (or .png, .webp), KEY.txt, KEY.saliency.png

Both are the forms of Hugging Face's `datasets`, which reads them here, in streaming mode: nothing is copied, and shards
may be anywhere that it can read from ("https://.../00000.tar", "hf://datasets/USER/NAME/*.tar", "s3://...").
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..guidance.errors import LimelightError
from . import pictures
from .problems import Problems, Report
from .shards import check_finished

Sample = dict[str, Any]

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MAKE = "Data sets in the right form are made by python -m limelight.training.prepare_saliency, prepare_salient_object "
MAKE += "and prepare_local_control."
AHEAD = 4  # pictures that each decoding thread may be ahead of the reader


def samples(
    source: str | Path,
    images: Sequence[str] = (),
    *,
    caption: str | None = "text",
    rank: int = 0,
    world: int = 1,
    skip: int = 0,
    threads: int = 0,
    on_problem: Report | None = None,
) -> Iterator[Sample]:
    """-> {"key": str, "row": int, "image": PIL RGB, "text": str, and each of `images`: PIL L or RGB, the image's size}

    source: a folder, a metadata file, a .tar, or a pattern or URL of such. images: names of the further pictures, such
    as "saliency", "mask", "hint". caption: the column of the captions (None: none are read, all are ""). rank, world:
    this process and how many there are; each gets other samples, and inside a worker of a DataLoader so does each
    worker. Whole shards are dealt out where there are enough of them, else single samples. skip: begin after so many
    rows of this share; `row` counts them, so skip=row + 1 goes on after a sample. threads: decode so many at a time.

    The order is that of the files' names and of the lines in them, always the same. A sample that is broken (pictures
    missing, unreadable or of another aspect, an empty caption) is told to `on_problem` with the file's name and left
    out. Raises LimelightError, before the first sample, if the source or a column is not there.
    """
    report = Problems() if on_problem is None else on_problem
    rank, world = _with_workers(rank, world)
    rows = _rows(source, images, caption, rank, world, skip)

    def finished() -> Iterator[Sample | tuple[str, str]]:
        if not threads:
            yield from (_sample(*row, images, caption) for row in rows)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting: collections.deque[Future] = collections.deque()
            try:
                for row in rows:
                    waiting.append(pool.submit(_sample, *row, images, caption))
                    if len(waiting) > AHEAD * threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    for sample in finished():
        if isinstance(sample, dict):
            yield sample
        else:
            report(*sample)


def check(source: str | Path, images: Sequence[str] = (), *, caption: str | None = "text") -> None:
    """Looks whether the source is there and has the columns; reads one row. Raises LimelightError."""
    if next(_rows(source, images, caption, 0, 1, 0), None) is None:
        raise LimelightError(f"{source}: found no samples. Expected at least one. {MAKE}")


def _files(source: str | Path) -> list[str]:
    """The source's shards or metadata files, by name. Raises LimelightError."""
    text, path = str(source), Path(source)
    if path.is_dir():
        check_finished(path)
        found = [file for name in (*METADATA, "*.tar") for file in path.rglob(name)]
        hidden = [any(part.startswith((".", "__")) for part in file.relative_to(path).parts) for file in found]
        files = sorted(str(file) for file, hide in zip(found, hidden, strict=True) if not hide)
    elif "://" in text or "*" in text:
        import fsspec

        system, _, paths = fsspec.get_fs_token_paths(text)
        files = sorted(system.unstrip_protocol(one) if "://" in text else one for one in paths)
    elif path.is_file():
        files = [text]
    else:
        raise LimelightError(f"{source}: there is no such folder. Expected a data set. {MAKE}")
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        names = ", ".join(sorted({Path(file).name for file in files})[:4]) if files else "nothing"
        raise LimelightError(
            f"{source}: found {names}. Expected shards (*.tar) or metadata ({METADATA[0]}), not both. {MAKE}"
        )
    return files


def _kind(file: str) -> str | None:
    """What `load_dataset` calls a file of that name."""
    return "webdataset" if file.endswith(".tar") else "imagefolder" if file.endswith(METADATA) else None


def _stream(file: str) -> Iterator[dict[str, Any]]:
    """The rows of one file, pictures undecoded. Raises LimelightError if it is broken.

    File by file, because `datasets` itself takes several metadata files in an order that changes from process to
    process, and wants all files to have the same columns.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(_kind(file), data_files={"train": [file]}, split="train", streaming=True)
        # not iter(dataset): inside a DataLoader's worker that would give each worker another part
        for batch in dataset.decode(False).iter(batch_size=1):
            yield {name: values[0] for name, values in batch.items()}
    except Exception as error:  # datasets, pyarrow, tarfile: no class in common
        raise LimelightError(f"{file}: cannot be read ({type(error).__name__}: {error}). {MAKE}") from error


def _with_workers(rank: int, world: int) -> tuple[int, int]:
    """The share of a DataLoader's worker, if this is one."""
    import torch.utils.data

    worker = torch.utils.data.get_worker_info()
    return (rank, world) if worker is None else (rank * worker.num_workers + worker.id, world * worker.num_workers)


def _rows(
    source: str | Path, images: Sequence[str], caption: str | None, rank: int, world: int, skip: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The undecoded rows of one share, numbered. Column names are ours: image, text and `images`."""
    files = _files(source)
    folder = source if Path(source).is_dir() else os.path.commonpath([os.path.dirname(file) for file in files])
    if len(files) >= world:
        files, rank, world = files[rank::world], 0, 1
    rows = ((file, row) for file in files for row in _stream(file))
    columns: dict[str, dict[str, str]] = {}
    for number, (file, row) in enumerate(itertools.islice(rows, rank + skip * world, None, world), skip):
        if file not in columns:
            columns = {file: _columns(row, file, images, caption)}
        key = _key(row, columns[file]["image"], folder)
        yield number, {"key": key} | {ours: row[its] for ours, its in columns[file].items()}


def _columns(row: dict[str, Any], file: str, images: Sequence[str], caption: str | None) -> dict[str, str]:
    """Our name of each column that is wanted -> the source's."""
    pictured = {name for name, value in row.items() if isinstance(value, dict) and {"bytes", "path"} <= value.keys()}
    shards = "__key__" in row
    found = {name.rsplit(".", 1)[0] if shards and "." in name else name: name for name in row}
    if shards:  # there the picture itself is called by the kind of its file
        found |= dict(itertools.chain((("image", name) for name in pictured if "." not in name), [("text", "txt")]))
        found = {name: its for name, its in found.items() if its in row}
    wanted = ["image", *images, *([caption] if caption else [])]
    missing = [name for name in wanted if name not in found]
    if missing:
        there = ", ".join(sorted(name for name in found if not name.startswith("__") and found.get("image") != name))
        where = f"files KEY.{missing[0]}.png in the shards" if shards else f"{missing[0]}_file_name in the metadata"
        if missing[0] in ("image", caption):
            where = {"image": "file_name in the metadata, or KEY.jpg in shards"}.get(
                missing[0], f"{caption} in the metadata, or KEY.txt in shards"
            )
        raise LimelightError(
            f"{file}: the column {missing[0]!r} is missing. Found {there or 'none'}; expected {where}. {MAKE}"
        )
    return {"image": found["image"], **{name: found[name] for name in images}} | (
        {"text": found[caption]} if caption else {}
    )


def _key(row: dict[str, Any], image: str, source: Any) -> str:
    """What names a sample: the picture's file as seen from the source, or the shard's name and the key in it."""
    if "__key__" in row:
        return f"{Path(row['__url__']).stem}/{row['__key__']}"
    path = Path((row[image] or {}).get("path") or "")
    try:
        return path.relative_to(source).as_posix()
    except ValueError:
        return path.name


def _sample(number: int, row: dict[str, Any], images: Sequence[str], caption: str | None) -> Sample | tuple[str, str]:
    """The decoded sample, or the name of a broken file and what is wrong."""
    text = row.get("text", "")
    if caption and not (isinstance(text, str) and text.strip()):
        return row["key"], "empty caption"
    sample: Sample = {"key": row["key"], "row": number, "text": text.strip()}
    for name in ("image", *images):
        stored = row[name] or {}
        label = row["key"] if name == "image" else f"{row['key']} ({name}: {Path(stored.get('path') or 'none').name})"
        try:
            if not stored.get("bytes") and not stored.get("path"):
                raise pictures.BrokenPicture("file is missing")
            picture = pictures.read(stored.get("bytes") or _local(stored["path"]))
            if name == "image":
                sample[name] = pictures.rgb(picture)
            else:
                sample[name] = pictures.fitted(pictures.plain(picture), sample["image"].size)
        except pictures.BrokenPicture as error:
            return label, str(error)
    return sample


def _local(path: str) -> Path | bytes:
    """A file as `pictures.read` takes it: its path, or its content where it is far away."""
    if "://" not in path:
        return Path(path)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise pictures.BrokenPicture(f"cannot be read: {error}") from None
