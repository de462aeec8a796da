"""What the programs that prepare data have in common: options, the list of pictures, processes, shards, the summary."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..guidance.errors import LimelightError
from ..tools.console import StepFailed, main_guard, say
from . import captions, pictures, shards
from .problems import Problems, Report, kind_of

Item = tuple[int, Path]
"""A picture of the list: its number, and its path within the folder."""
Make = Callable[[Iterable[Item], Report], Iterator[dict[str, Any]]]
"""Pictures -> samples as `training.samples` will yield them; those that are left out are reported."""

# Options with no influence on what is written, or that are known by what is in them.
ELSEWHERE = frozenset({"images", "masks", "out", "form", "image_format", "quality", "batch", "device"})
NOTE = """
A picture that cannot be used (unreadable, too small, without caption ...) is told by name, counted and left out; the
run goes on. All of them are listed in OUT/.limelight/problems.txt. A write error, such as a full disk, stops the run. A
run that was stopped goes on with the same command; the result is the same as without the stop.

    accelerate launch -m limelight.training.{name} ...

shares the work among several processes; on several machines OUT must be a folder that all of them see.

The result trains in streaming mode, and opens with datasets.load_dataset("imagefolder", data_dir=OUT), or, for shards,
load_dataset("webdataset", data_files="OUT/*.tar").
"""


def parser(name: str, description: str, resolution: int = 512) -> argparse.ArgumentParser:
    """The options that all prepare programs share."""
    made = argparse.ArgumentParser(
        prog=f"python -m limelight.training.{name}",
        description=description + NOTE.format(name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--images", type=Path, required=True, help="folder of pictures; folders in it count too")
    made.add_argument("--out", type=Path, required=True, help="folder for the result: new, or to go on with")
    made.add_argument("--resolution", type=side, default=resolution, help="short side in pixels (default %(default)s)")
    made.add_argument(
        "--smallest", type=int, help="leave out pictures with a shorter side (default half the resolution; 0: none)"
    )
    made.add_argument("--count", type=positive, help="only the first so many pictures")
    made.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default %(default)s)")
    made.add_argument("--batch", type=positive, default=8, help="pictures at a time in a model (default %(default)s)")
    made.add_argument("--device", help="cpu, cuda ... (default what accelerate finds)")
    written = made.add_argument_group("how it is written")
    written.add_argument(
        "--form",
        choices=shards.FORMS,
        default=shards.FORMS[0],
        help="imagefolder: files and metadata.jsonl. webdataset: .tar shards, for large data (default %(default)s)",
    )
    written.add_argument(
        "--shard", type=positive, default=256, help="source pictures a shard, and lost by a stop (default %(default)s)"
    )
    written.add_argument(
        "--image_format", choices=list(shards.SUFFIXES), default="jpg", help="png and webp are lossless (default jpg)"
    )
    written.add_argument("--quality", type=int, default=95, help="of jpg (default %(default)s; GazeFusion's was 75)")
    captions.add_arguments(made)
    return made


def side(text: str) -> int:
    """Of an option: pixels that make whole latents."""
    if int(text) < 64 or int(text) % 8:
        raise argparse.ArgumentTypeError(f"found {text}; expected a multiple of 8 from 64 on")
    return int(text)


def positive(text: str) -> int:
    """Of an option: a whole number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected 1 or more")
    return int(text)


def share(text: str) -> float:
    """Of an option: 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected 0 to 1")
    return float(text)


def main(program: Callable[[], None]) -> int:
    """Runs a program; errors that are meant for people end it with their message. -> the exit status."""

    def guarded() -> None:
        try:
            program()
        except LimelightError as error:
            raise StepFailed(str(error)) from None

    return main_guard(guarded)


def run(name: str, options: argparse.Namespace, build: Callable[[argparse.Namespace, Any], Make]) -> None:
    """The whole of a prepare program. Raises StepFailed or LimelightError.

    build: options, device -> how samples are made of pictures. Called only if something is left to do, so that models
    are not loaded in vain.
    """
    from accelerate import PartialState

    listed = list_pictures(options.images, options.out)[: options.count]
    state = PartialState(cpu=True) if options.device == "cpu" else PartialState()
    rank, world = state.process_index, state.num_processes
    settings, count = _settings(name, options, listed), -(-len(listed) // options.shard)
    try:
        there = shards.Shards(options.out, count, options.form, settings, options.image_format, options.quality)
        if count < world and not rank:
            say(f"only {count} shards for {world} processes; a smaller --shard would give each of them something to do")
        # dealt out by number, not by what is missing: the other processes may have begun already
        left = [number for number in there.missing() if number % world == rank]
        if left:
            make = build(options, options.device or state.device)
            _write_all(there, left, listed, options.shard, make, rank)
        done = there.finish()
    except OSError as error:
        raise StepFailed(
            f"{error.filename}: {error.strerror}. The shards that are done stay; once this is put right, the same "
            "command goes on with the next one."
        ) from error
    finally:
        if world > 1:
            state.destroy_process_group()
    if done is None:
        say(f"process {rank} of {world} has done its part; the others have not yet, or were stopped: then run it again")
        return
    say(f"{options.out}: {done['samples']} samples of {len(listed)} pictures")
    if done["problems"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in done["problems"].items())
        say(f"left out: {counts}; listed in {there.records / shards.PROBLEMS}")
    if not done["samples"]:
        raise StepFailed(f"{options.out}: no picture could be used; see above why.")


def _write_all(
    there: shards.Shards, left: Sequence[int], listed: Sequence[Path], size: int, make: Make, rank: int
) -> None:
    """Makes the shards that are left, one after the other."""
    told = Problems()
    total = sum(len(listed[number * size : (number + 1) * size]) for number in left)
    with tqdm(total=total, desc="pictures", unit="picture", smoothing=0.05, position=rank, dynamic_ncols=True) as bar:
        for number in left:
            problems: list[tuple[str, str]] = []

            def report(name: str, what: str, problems: list[tuple[str, str]] = problems) -> None:
                problems.append((name, what))
                told(name, what)

            def items(first: int = number * size) -> Iterator[Item]:
                for item in enumerate(listed[first : first + size], first):
                    yield item
                    bar.update()

            there.write(number, make(items(), report), problems)


def list_pictures(folder: Path, out: Path | None = None) -> list[Path]:
    """The pictures in a folder and below, as paths within it, by name. Raises LimelightError if there are none."""
    if not folder.is_dir():
        raise LimelightError(f"--images {folder}: there is no such folder. Expected a folder of pictures.")
    if out is not None and folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise LimelightError(f"--out {out}: it is in the folder of --images. Expected a folder outside of it.")
    found = sorted(path.as_posix() for path in _below(folder))
    if not found:
        kinds = ", ".join(sorted(pictures.SUFFIXES))
        raise LimelightError(f"--images {folder}: found no pictures in it or below. Expected files in {kinds}.")
    return [Path(path) for path in found]


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for file in files:
            if os.path.splitext(file)[1].lower() in pictures.SUFFIXES and not file.startswith("."):
                yield Path(where, file).relative_to(folder)


def _settings(name: str, options: argparse.Namespace, listed: Sequence[Path]) -> dict[str, Any]:
    """All that has an influence on the result. Folders may be elsewhere when a run is taken up."""
    names = hashlib.sha256("\n".join(path.as_posix() for path in listed).encode()).hexdigest()[:16]
    chosen = {key: value for key, value in vars(options).items() if key not in ELSEWHERE}
    chosen = {key: value.name if isinstance(value, Path) else value for key, value in chosen.items()}
    return chosen | {"program": name, "pictures": len(listed), "names of the pictures": names}


def opened(items: Iterable[Item], options: argparse.Namespace, report: Report) -> Iterator[dict[str, Any]]:
    """The pictures that can be read and are large enough: {"key", "path", "image": PIL RGB as large as it is}."""
    smallest = options.resolution // 2 if options.smallest is None else options.smallest
    for number, path in items:
        try:
            image = pictures.rgb(pictures.read(options.images / path))
            if min(image.size) < smallest:
                raise pictures.BrokenPicture(f"too small: it is {image.width}x{image.height}, see --smallest")
        except pictures.BrokenPicture as error:
            report(path.as_posix(), str(error))
            continue
        yield {"key": key_of(number, path), "path": path, "image": image}


def key_of(number: int, path: Path) -> str:
    """A name for the samples of a picture: no other picture has it, and it has no dots (WebDataset splits at them)."""
    return f"{number:08d}_{re.sub(r'[^A-Za-z0-9_-]+', '-', path.stem)[:60]}"


class Masks:
    """The files of a folder by the pictures that they belong to: the same path without its ending, else the same name.

    suffix: what a mask's name has after the picture's, such as "_mask".
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        if not folder.is_dir():
            raise LimelightError(f"--masks {folder}: there is no such folder. Expected a folder of masks.")
        self.folder, self.suffix = folder, suffix
        self.files: dict[str, Path] = {}
        self.names: dict[str, list[Path]] = {}
        for path in sorted(_below(folder)):
            self.files.setdefault(path.with_suffix("").as_posix(), path)
            self.names.setdefault(path.stem, []).append(path)
        if not self.files:
            raise LimelightError(f"--masks {folder}: found no pictures in it or below. Expected masks.")

    def read(self, path: Path) -> Image.Image:
        """The mask of a picture as it is stored. Raises BrokenPicture if there is none, or two, or it is broken."""
        found = self.files.get(path.with_suffix("").as_posix() + self.suffix)
        if found is None:
            named = self.names.get(path.stem + self.suffix, [])
            if len(named) > 1:
                raise pictures.BrokenPicture(f"several masks of that name: {named[0]}, {named[1]}")
            if not named:
                raise pictures.BrokenPicture("no mask of that name")
            found = named[0]
        try:
            return pictures.read(self.folder / found)
        except pictures.BrokenPicture as error:
            raise pictures.BrokenPicture(f"mask {kind_of(str(error))}: {found}: {error}") from None


def with_masks(
    samples: Iterable[dict[str, Any]],
    masks: Masks,
    made: Callable[[Image.Image, tuple[int, int]], Image.Image],
    report: Report,
) -> Iterator[dict[str, Any]]:
    """Adds "mask" to what `opened` yields. made: a mask as it is stored, (width, height) of its picture -> the mask;
    those that it refuses with a BrokenPicture are reported, as broken ones are, and left out."""
    for sample in samples:
        try:
            mask = made(masks.read(sample["path"]), sample["image"].size)
        except pictures.BrokenPicture as error:
            report(sample["path"].as_posix(), str(error))
            continue
        yield sample | {"mask": mask}
