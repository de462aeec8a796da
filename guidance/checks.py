"""Checks of plain JSON values. Each raises `LimelightError` with the place, what was found and what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import LimelightError


def number(value: Any, path: str, low: float, high: float, remedy: str = "") -> float:
    """A finite number from ``low`` to ``high`` as a float."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not low <= value <= high:  # NaN fails every comparison
        raise LimelightError(
            f"{path}: found {show(value)}; expected a number from {low:g} to {high:g}. {remedy}".strip()
        )
    return float(value)


def window(start: Any, end: Any, outcome: str, off: str) -> tuple[float, float]:
    """The part of the noise schedule from the input start_percent to end_percent. outcome: what an empty one would
    mean ("nothing would be guided"); off: what strength 0 does ("turn guidance off")."""
    start, end = number(start, "start_percent", 0, 1), number(end, "end_percent", 0, 1)
    if start > end:
        raise LimelightError(
            f"start_percent: found {start:g}, which is after end_percent {end:g}, so that {outcome}. Set it to less "
            f"than end_percent; to {off}, set strength to 0."
        )
    return start, end


def whole(value: Any, path: str, low: int, high: int, remedy: str = "") -> int:
    """A whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise LimelightError(
            f"{path}: found {show(value)}; expected a whole number from {low} to {high}. {remedy}".strip()
        )
    return value


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise LimelightError(f"{path}: found {show(value)}; expected true or false.")
    return value


def listed(value: Any, path: str, least: int, most: int, of: str) -> Sequence:
    """A list or tuple of ``least`` to ``most`` items."""
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
        found = f"{len(value)} of them" if isinstance(value, (list, tuple)) else show(value)
        count = f"{least}" if least == most else f"{least} to {most}"
        raise LimelightError(f"{path}: found {found}; expected a list of {count} {of}.")
    return value


def mapping(value: Any, path: str, keys: tuple[str, ...]) -> Mapping:
    """An object that has no keys but ``keys``: a misspelt key would otherwise be lost in silence."""
    if not isinstance(value, Mapping):
        raise LimelightError(f"{path}: found {show(value)}; expected an object with {', '.join(keys)}.")
    for key in value:
        if key not in keys:
            raise LimelightError(f"{path}: found the unknown key {show(key)}; expected {', '.join(keys)}.")
    return value


def json_text(text: Any, path: str, what: str) -> Any:
    """The value of JSON text. A slip in it is reported with its line and column. what: it should be, for errors."""
    if not isinstance(text, str):
        raise LimelightError(f"{path}: found {show(text)}; expected {what} as JSON text.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LimelightError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. "
            "Check commas, quotes and brackets just before that place."
        ) from error
    except RecursionError as error:
        raise LimelightError(f"{path}: the JSON is nested too deeply for {what}.") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise LimelightError(
            f"{path}: a number in the JSON cannot be read ({error}). Write a shorter number."
        ) from error


def show(value: Any) -> str:
    """A short readable form of any value for an error."""
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 150:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, (int, float)):
        return str(value)
    return f"a value of type {type(value).__name__}"
