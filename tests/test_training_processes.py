"""Two processes of accelerate, on the CPU over gloo, train what one with twice the batch trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file
from training_data import (
    saliency_argv,
    saliency_options,
    tiny_base,
    train_saliency,
    write_folder,
    write_scenes,
)

from limelight.training import base, log

MORE = ("--max_train_steps", "4", "--learning_rate", "1e-2", "--lr_scheduler", "linear", "--hint", "channels")
MORE += ("--checkpointing_steps", "2", "--gradient_accumulation_steps", "2", "--proportion_empty_prompts", "0.3")
# Adam divides a gradient by its size, and so makes rounding errors of gradients near zero as large as any other step
MORE += ("--adam_epsilon", "1e-2")


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    folder, data = write_folder(tiny_base(), tmp_path / "base"), write_scenes(tmp_path / "data", 7, side=64)
    where = {"base": str(folder), "data": str(data)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "limelight.training.train_saliency_controlnet"]
    command += saliency_argv(tmp_path / "two", *MORE, "--train_batch_size", "1", **where)
    # what accelerate launch sets
    shared = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()

    options = saliency_options(tmp_path / "one", *MORE, "--train_batch_size", "2", **where)
    task, files = train_saliency(base.load(folder), options)
    name = files[0].name
    two, one = load_file(tmp_path / "two" / name), load_file(files[0])
    start = type(task)(base.load(folder), options).network.state_dict()
    moved = [float((value - start[key]).abs().max()) for key, value in task.network.state_dict().items()]
    assert max(moved) > 1e-3
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)
    for ours, theirs in zip(log.read(tmp_path / "two"), log.read(tmp_path / "one"), strict=True):
        assert ours["step"] == theirs["step"] and abs(ours["loss"] - theirs["loss"]) < 1e-5
