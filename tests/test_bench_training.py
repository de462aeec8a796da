"""The bench of trainers: its examples train what our trainers do, and what it makes of their figures."""

from __future__ import annotations

import pytest
import torch
from local_training import base as local_base
from training_data import tiny_base, write_folder

from limelight.bench import training

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and, in shapeworld's place, small random bases."""
    made, nine = tmp_path_factory.mktemp("bench"), tiny_base()  # which makes torchvision importable
    from diffusers import UNet2DConditionModel

    training.write_data(made, 0)
    config = {name: value for name, value in nine.unet.config.items() if not name.startswith("_")}
    nine.unet = UNet2DConditionModel(**{**config, "in_channels": 9})
    write_folder(local_base(), made / "base")
    write_folder(nine, made / "inpaint")
    return made


@pytest.mark.parametrize("row", [row for row in training.ROWS if " " not in row] + ["local-adapter example"])
def test_both_sides_train_networks_of_one_form(row, folder, monkeypatch):
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "SIDE", 64)
    found = {}
    for side in training.SIDES:
        AcceleratorState._reset_state(True)  # of a training before
        waited = []
        network = training.train(row, side, folder, 2, 0, lambda waited=waited: waited.append(1))
        assert len(waited) == 2
        weights = list(network.parameters())
        assert all(one.requires_grad and one.isfinite().all() for one in weights)
        found[side] = sorted(tuple(one.shape) for one in weights)
    assert found[training.TRAINER] == found[training.EXAMPLE]
    assert torch.get_num_threads() == 1


def test_what_a_row_says(monkeypatch, tmp_path):
    """Processes that were not started: what they would tell, in their order."""
    slow = [9.0, 9.0, 4.0, 5.0, 3.0]
    told = {
        (training.TRAINER, 1): [7.0, 300 * MIB],
        (training.TRAINER, 6): [5.4, 9.0, 9.0, 2.0, 2.0, 8.0, 250 * MIB],
        (training.EXAMPLE, 6): [6.0, *slow, 400 * MIB],
    }

    class Told:
        def __init__(self, row, side, folder, steps, seed):
            self.left = told.pop((side, steps))

        def told(self):
            return self.left.pop(0)

        go_on = told

    monkeypatch.setattr(training, "Training", Told)
    row = training.measure("saliency-controlnet", tmp_path, 3, 0)
    assert not told
    assert row == {
        "row": "saliency-controlnet",
        "throughput_ratio": 2.0,
        "peak_memory_ratio": 0.75,
        "samples_per_second": 4.0,
        "example_samples_per_second": 2.0,
        "cache_s_per_sample": pytest.approx(1.6 / training.SAMPLES),
        "cache_epochs": pytest.approx(1.6 / training.SAMPLES / 0.25),
    }
