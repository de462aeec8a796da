"""A training that is killed goes on to the very weights of one that was not; a full disk costs one checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from training_data import (
    reader,
    saliency_argv,
    saliency_options,
    scenes,
    tiny_base,
    train_saliency,
    write_folder,
    write_scenes,
)

from limelight.guidance.errors import LimelightError
from limelight.training import checkpoints, log

STEPS = 15
MORE = ("--max_train_steps", str(STEPS), "--checkpointing_steps", "3", "--lr_scheduler", "cosine", "--use_ema")
MORE += ("--learning_rate", "1e-3", "--gradient_accumulation_steps", "2", "--hint", "channels", "--log_steps", "4")
RESUME = ("--resume_from_checkpoint", "latest")


def same(files, others) -> bool:
    """Whether two exports are bit by bit of the same weights."""
    return all(
        torch.equal(value, load_file(other)[name])
        for file, other in zip(files, others, strict=True)
        for name, value in load_file(file).items()
    )


def test_killed_at_any_time_and_resumed_is_as_never_stopped(tmp_path):
    folder, data = write_folder(tiny_base(), tmp_path / "base"), write_scenes(tmp_path / "data", 5, side=64)
    where = {"base": str(folder), "data": str(data)}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    program = [sys.executable, "-m", "limelight.training.train_saliency_controlnet"]
    with subprocess.Popen([*program, *saliency_argv(killed, *MORE, **where)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not checkpoints.complete(killed):
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.4))  # anywhere in a step or in the next save
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    at = checkpoints.find(killed, "latest")[1]["step"]
    assert 3 <= at < STEPS

    # all in processes of their own: other tests leave torch with other numbers of threads in this one
    for more in ((killed, *MORE, *RESUME), (whole, *MORE)):
        subprocess.run([*program, *saliency_argv(*more, **where)], check=True, stderr=subprocess.DEVNULL)
    files, others = (sorted(path.glob("*.safetensors")) for path in (killed, whole))
    assert files and same(files, others)
    average, other = (load_file(checkpoints.complete(path)[-1] / "average.safetensors") for path in (killed, whole))
    assert all(torch.equal(value, other[name]) for name, value in average.items())
    resumed, never = (
        [{k: v for k, v in line.items() if k != "samples_per_second"} for line in log.read(path)]
        for path in (killed, whole)
    )
    assert resumed == never and [line["step"] for line in never] == list(range(1, STEPS + 1))


def test_a_full_disk_stops_the_training_with_the_checkpoint_before_as_the_latest(tmp_path, monkeypatch):
    more = ("--max_train_steps", "6", "--checkpointing_steps", "2", "--checkpoints_total_limit", "2")
    samples, tiny = scenes(3, side=64), tiny_base()
    write, saved = torch.save, []

    def full(*args, **kwargs):
        saved.append(args)
        if len(saved) > 3:  # in the middle of the second checkpoint: each has several files
            raise OSError(28, "No space left on device")
        write(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LimelightError, match="checkpoint of step 4: it could not be written .*No space left"):
        train_saliency(tiny, saliency_options(tmp_path / "full", *more), reader(samples))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-00000002"]
    _, files = train_saliency(tiny, saliency_options(tmp_path / "full", *more, *RESUME), reader(samples))
    _, others = train_saliency(tiny, saliency_options(tmp_path / "whole", *more), reader(samples))
    assert same(files, others)
    assert [path.name for path in checkpoints.complete(tmp_path / "full")] == [
        "checkpoint-00000004",
        "checkpoint-00000006",
    ]


def test_a_finished_training_is_only_exported_again(tmp_path):
    samples, tiny = scenes(3, side=64), tiny_base()
    _, files = train_saliency(tiny, saliency_options(tmp_path), reader(samples))
    before = load_file(files[0])
    _, again = train_saliency(tiny, saliency_options(tmp_path, *RESUME), reader(samples))
    assert all(torch.equal(value, before[name]) for name, value in load_file(again[0]).items())
