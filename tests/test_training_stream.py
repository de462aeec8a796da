"""Training on data that are encoded as they come: the place in them is part of a checkpoint."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_data import saliency_options, tiny_base, train_saliency, write_scenes

from limelight.guidance.errors import LimelightError
from limelight.training import checkpoints, log
from limelight.training.problems import Problems
from limelight.training.run import _reader
from limelight.training.stream import Stream
from limelight.training.train_saliency_controlnet import SaliencyControlNet

MORE = ("--stream", "--max_train_steps", "6", "--checkpointing_steps", "2", "--learning_rate", "1e-3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five samples, one of them broken."""
    folder = write_scenes(tmp_path_factory.mktemp("data"), 5, side=64)
    (folder / "001.png").write_bytes(b"no picture")
    return folder


def test_a_stream_goes_on_where_it_was(data, tmp_path):
    base = tiny_base()
    given = saliency_options(tmp_path, *MORE, "--validation_steps", "6", "--num_validation_images", "2", data=str(data))
    _, files = train_saliency(base, given)
    whole, lines = load_file(files[0]), log.read(tmp_path)
    assert not (tmp_path / "cache").exists() and (tmp_path / "validation" / "step-00000006.png").is_file()
    for path in checkpoints.complete(tmp_path)[1:]:
        shutil.rmtree(path)
    again = saliency_options(tmp_path, *MORE, "--resume_from_checkpoint", "latest", data=str(data))
    _, files = train_saliency(base, again)
    assert all(torch.equal(value, whole[name]) for name, value in load_file(files[0]).items())
    assert [line["loss"] for line in log.read(tmp_path)] == [line["loss"] for line in lines if "loss" in line]


def test_processes_share_the_samples_and_go_through_them_again(data, tmp_path):
    base = tiny_base()
    options = saliency_options(tmp_path, *MORE, "--train_batch_size", "1", "--no-random_flip", data=str(data))
    task = SaliencyControlNet(base, options)
    seen, problems = [], Problems()
    for rank in (0, 1):
        stream = Stream(_reader(options, task), task, base, options, rank, 2, torch.device("cpu"), problems)
        steps = list(stream.feed(0, 6))
        assert [numbers for numbers, _ in steps] == [[2 * step + rank] for step in range(6)]
        seen.append([batch["hint"].sum().item() for _, batch in steps])
        assert stream.place["epoch"] == (1, 5)[rank] and stream.place["row"] > 0
    assert not {*seen[0]} & {*seen[1]} and len({*seen[0]} | {*seen[1]}) == 4  # all but the broken one
    assert {name for name, _ in problems.told} == {"001.png"}
    assert len(Stream(_reader(options, task), task, base, options, 0, 2, "cpu", problems).examples(9)["hint"]) == 4


def test_a_stream_without_a_usable_sample_ends(tmp_path):
    folder = write_scenes(tmp_path / "data", 2, side=64)
    for path in folder.glob("00?.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(LimelightError, match="has no sample that can be used"):
        train_saliency(tiny_base(), saliency_options(tmp_path / "out", *MORE, data=str(folder)))
