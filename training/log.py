"""The log of a training: one JSON object a line, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = "log.jsonl"


class Log:
    """Writes into a training's folder. Lines of steps that a resumed training does again are taken out first."""

    def __init__(self, folder: Path, step: int = 0):
        self.path = folder / FILE
        kept = [line for line in read(folder) if line["step"] <= step] if step else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)
        self._board = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, *lines: dict[str, Any]) -> None:
        """Each line: {"step": int, figure: value, ...}."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        for line in lines:
            for name, value in line.items():
                if self._board and name != "step":
                    self._board.add_scalar(name, value, line["step"])

    def picture(self, image: Image.Image, step: int) -> Path:
        """Keep a sheet of pictures; -> its file."""
        path = self.path.parent / "validation" / f"step-{step:08}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        if self._board:
            self._board.add_image("validation", np.asarray(image), step, dataformats="HWC")
        return path

    def close(self) -> None:
        if self._board:
            self._board.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training's log; one that was cut off by a stop is left out."""
    path, found = folder / FILE, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found
