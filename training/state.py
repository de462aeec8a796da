"""What a checkpoint holds of a running training, and the running average of its weights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

AVERAGE, SCHEDULE = "average.safetensors", "schedule.pt"


class State:
    """What a checkpoint holds: networks, optimizer and scaler by accelerate, which knows how they are spread; the
    learning rate's schedule, the running average, and each process's place in streamed data beside them."""

    def __init__(self, accelerator: Accelerator, schedule: Any, average: EMAModel | None, data: Any):
        self.accelerator, self.schedule, self.average, self.data = accelerator, schedule, average, data

    def _place(self, folder: Path) -> Path:
        return folder / f"place-{self.accelerator.process_index:03}.json"

    def save(self, folder: Path) -> None:
        self.accelerator.save_state(str(folder))
        if self.data.place is not None:
            self._place(folder).write_text(json.dumps(self.data.place), encoding="utf-8")
        if self.accelerator.is_main_process:
            torch.save(self.schedule.state_dict(), folder / SCHEDULE)
            if self.average:
                shadow = {str(i): value.contiguous() for i, value in enumerate(self.average.shadow_params)}
                save_file(shadow, folder / AVERAGE, {"step": str(self.average.optimization_step)})

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder))
        if self.data.place is not None:
            self.data.place = json.loads(self._place(folder).read_text(encoding="utf-8"))
        self.schedule.load_state_dict(torch.load(folder / SCHEDULE, weights_only=True))
        if self.average:
            with safe_open(folder / AVERAGE, "pt") as file:
                self.average.shadow_params = [file.get_tensor(str(i)) for i in range(len(file.keys()))]
                self.average.optimization_step = int(file.metadata()["step"])


@contextlib.contextmanager
def averaged(average: EMAModel | None, weights: list[nn.Parameter]) -> Iterator[None]:
    """Within the block the network has its running average."""
    if average is None:
        yield
        return
    average.store(weights)
    average.copy_to(weights)
    try:
        yield
    finally:
        average.restore(weights)
