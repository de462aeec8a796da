"""Prepared data on disk: shards that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ..guidance.errors import LimelightError

RECORDS = ".limelight"  # what is done, in a folder that `datasets` does not look into
FINISHED = "finished.json"


def check_finished(folder: Path) -> None:
    """Raises LimelightError for a folder that one of the prepare programs has begun and not finished."""
    if (folder / RECORDS).is_dir() and not (folder / RECORDS / FINISHED).is_file():
        raise LimelightError(
            f"{folder}: its preparation is not finished. Run the same command again; it goes on where it stopped."
        )
