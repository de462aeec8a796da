"""Prepared data on disk: shards that are there whole or not at all, so that a run may be stopped at any time.

A shard holds what was made of so many pictures in a row. It is written to a temporary place, moved to its own by
renaming, and only then recorded as done. Which pictures are in which shard depends on nothing but their list, so that
the result is the same however many processes worked on it and however often they were stopped.

    FOLDER/metadata.jsonl, FOLDER/00000/KEY.jpg, KEY.saliency.png ...     form "imagefolder"
    FOLDER/00000.tar with KEY.jpg, KEY.saliency.png, KEY.txt ...          form "webdataset"
    FOLDER/.limelight/settings.json, 00000.json ..., problems.txt, finished.json
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..guidance.errors import LimelightError
from .problems import kind_of

FORMS = ("imagefolder", "webdataset")
RECORDS = ".limelight"  # a folder that `datasets` does not look into
SETTINGS, PROBLEMS, FINISHED, METADATA = "settings.json", "problems.txt", "finished.json", "metadata.jsonl"
PARTIAL = ".partial"
SUFFIXES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def check_finished(folder: Path) -> None:
    """Raises LimelightError for a folder that one of the prepare programs has begun and not finished."""
    if (folder / RECORDS).is_dir() and not (folder / RECORDS / FINISHED).is_file():
        raise LimelightError(
            f"{folder}: its preparation is not finished. Run the same command again; it goes on where it stopped."
        )


class Shards:
    """The shards of one folder.

    count: how many there are in all. form: one of `FORMS`. settings: of all that has an influence on what is in them;
    a folder that was begun with others is an error. suffix, quality: of the pictures ("jpg", "png", "webp"); quality
    counts for jpg. All other images are lossless PNG.
    """

    def __init__(
        self, folder: Path, count: int, form: str, settings: dict[str, Any], suffix: str = "jpg", quality: int = 95
    ) -> None:
        self.folder, self.records, self.count, self.form = folder, folder / RECORDS, count, form
        self.suffix, self.quality = suffix, quality
        if folder.is_dir() and not self.records.is_dir() and any(folder.iterdir()):
            raise LimelightError(
                f"{folder}: found other files. Expected a new or an empty folder, or one to go on with."
            )
        settings = json.loads(
            json.dumps(settings | {"form": form, "shards": count, "kind": suffix, "quality": quality})
        )
        self.records.mkdir(parents=True, exist_ok=True)
        there = settings
        if any(self.records.glob("[0-9]*.json")):  # before the first shard is done there is nothing to contradict
            there = json.loads((self.records / SETTINGS).read_text(encoding="utf-8"))
        else:
            write_whole(self.records / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
        other = sorted(key for key in settings.keys() | there.keys() if settings.get(key) != there.get(key))
        if other:
            found = "; ".join(f"{key} was {there.get(key)!r} and is {settings.get(key)!r}" for key in other)
            raise LimelightError(
                f"{folder}: it was begun with other settings ({found}). Give the same ones to go on with it, or name "
                "another folder."
            )

    def missing(self) -> list[int]:
        """The shards that are not there, or not as they were written."""
        return [number for number in range(self.count) if self.record(number) is None]

    def record(self, number: int) -> dict[str, Any] | None:
        """What was written down of a shard that is complete: samples, problems, rows."""
        try:
            record = json.loads(self._record(number).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return record if record["files"] == _sizes(self._place(number)) else None

    def write(self, number: int, samples: Iterable[dict[str, Any]], problems: list[tuple[str, str]]) -> None:
        """Makes one shard. Each sample is as `training.samples` will yield it: key, image, text, further images.

        problems: a list that is filled while the samples are made, recorded with them. Raises OSError with the file's
        name if it cannot be written; the shard is then missing as before.
        """
        for name in (FINISHED, PROBLEMS):  # from here on the folder is unfinished
            (self.records / name).unlink(missing_ok=True)
        (self.folder / METADATA).unlink(missing_ok=True)
        self._record(number).unlink(missing_ok=True)
        place, partial = self._place(number), self.records / f"{number:05d}{PARTIAL}"
        for old in (place, partial):
            _remove(old)
        try:
            rows = list(self._folder(partial, samples) if self.form == "imagefolder" else _tar(partial, self, samples))
            if rows:
                partial.rename(place)
        except OSError as error:
            _remove(partial)
            raise OSError(error.errno, error.strerror, str(error.filename or place)) from error
        record = {"samples": len(rows), "files": _sizes(place), "problems": problems, "rows": rows}
        write_whole(self._record(number), json.dumps(record, ensure_ascii=False).encode())

    def finish(self) -> dict[str, Any] | None:
        """Writes metadata and summary if every shard is there. -> {"samples", "problems" by kind}, or None if not.

        Any process may do it, several at once too: they write the same.
        """
        samples, kinds = 0, Counter[str]()
        metadata, told = io.StringIO(), io.StringIO()
        for number in range(self.count):
            record = self.record(number)
            if record is None:
                return None
            samples += record["samples"]
            for name, what in record["problems"]:
                kinds[kind_of(what)] += 1
                told.write(f"{name}: {what}\n")
            for row in record["rows"]:
                metadata.write(json.dumps(self._named(number, row), ensure_ascii=False) + "\n")
        if self.form == "imagefolder" and samples:
            write_whole(self.folder / METADATA, metadata.getvalue().encode())
        write_whole(self.records / PROBLEMS, told.getvalue().encode())
        done = {"samples": samples, "problems": dict(kinds)}
        write_whole(self.records / FINISHED, (json.dumps(done, indent=1) + "\n").encode())
        for folder in (self.folder, self.records):
            for left in folder.glob(f"*{PARTIAL}"):  # of a process that was killed, or of one that writes the same
                _remove(left)
        return done

    def encoded(self, sample: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        """The images of a sample as (name in the sample, content of the file), the picture first."""
        names = ["image", *sorted(name for name, value in sample.items() if isinstance(value, Image.Image))]
        for name in dict.fromkeys(names):
            kind = self.suffix if name == "image" else "png"
            stream = io.BytesIO()
            # chroma at full resolution: edges and small coloured things are what is trained on
            options = {"quality": self.quality, "subsampling": 0} if kind == "jpg" else {}
            sample[name].save(stream, SUFFIXES[kind], **(options | ({"lossless": True} if kind == "webp" else {})))
            yield name, stream.getvalue()

    def file_name(self, key: str, name: str) -> str:
        """What an image of a sample is called."""
        return f"{key}.{self.suffix}" if name == "image" else f"{key}.{name}.png"

    def _folder(self, partial: Path, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
        partial.mkdir()
        for sample in samples:
            row = {"file_name": "", "text": sample["text"]}  # file_name first: `datasets` goes by the order
            for name, content in self.encoded(sample):
                file = self.file_name(sample["key"], name)
                row["file_name" if name == "image" else f"{name}_file_name"] = file
                (partial / file).write_bytes(content)
            yield row

    @staticmethod
    def _named(number: int, row: dict[str, str]) -> dict[str, str]:
        """A row whose files are named from the folder that the shards are in."""
        return {key: f"{number:05d}/{value}" if key.endswith("file_name") else value for key, value in row.items()}

    def _place(self, number: int) -> Path:
        return self.folder / (f"{number:05d}" if self.form == "imagefolder" else f"{number:05d}.tar")

    def _record(self, number: int) -> Path:
        return self.records / f"{number:05d}.json"


def _tar(partial: Path, shards: Shards, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    with partial.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for sample in samples:
                files = [(shards.file_name(sample["key"], name), content) for name, content in shards.encoded(sample)]
                for name, content in [*files, (f"{sample['key']}.txt", sample["text"].encode())]:
                    entry = tarfile.TarInfo(name)  # no time, no owner: the same content is the same file
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                yield {}
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file or, if that does not work, leaves what was there. Raises OSError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        _write(partial, content)
        partial.replace(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_file():
            return  # another process has finished the folder and cleared up, see `Shards.finish`
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def _sizes(place: Path) -> list[int]:
    """How many files are at a place and of how many bytes: enough to see that some are gone or cut off."""
    if place.is_dir():
        sizes = [entry.stat().st_size for entry in os.scandir(place)]
    else:
        sizes = [place.stat().st_size] if place.is_file() else []
    return [len(sizes), sum(sizes)]
