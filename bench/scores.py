"""What a long bench has found so far, in JSON lines: a run that was stopped goes on, one that is done is only read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .sheets import add_images_option


def add_scores_option(parser: argparse.ArgumentParser) -> None:
    """--scores FILE"""
    parser.add_argument("--scores", type=Path, help="JSON lines: what is there is not run again, what is run is added")


def add_images_and_scores(parser: argparse.ArgumentParser) -> None:
    """--images FOLDER and --scores FILE"""
    add_images_option(parser)
    add_scores_option(parser)


def resumed(path: Path | None) -> dict[int, dict]:
    """What earlier runs have written to --scores: {index: scores}."""
    done: dict[int, dict] = {}
    if path is not None and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            keep(done, entry["index"], entry["scores"])
    return done


def keep(done: dict[int, dict], index: int, scores: dict, path: Path | None = None) -> None:
    """Take the scores of one case into ``done``, and into the file of --scores."""
    done[index] = done.get(index, {}) | scores
    if path is not None:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"index": index, "scores": scores}) + "\n")
