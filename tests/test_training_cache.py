"""What training reads again and again: encoded once, whatever happens meanwhile."""

from __future__ import annotations

import itertools

import pytest
import safetensors.torch
import torch
from PIL import Image
from training_data import saliency_options, scenes, tiny_base

from limelight.guidance.errors import LimelightError
from limelight.training import cache
from limelight.training.problems import Problems
from limelight.training.train_saliency_controlnet import SaliencyControlNet

COUNT = 7


@pytest.fixture(scope="module")
def samples():
    return scenes(COUNT, side=64)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return SaliencyControlNet(tiny_base(), saliency_options(tmp_path_factory.mktemp("out")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 4)  # two samples and their mirror images
    monkeypatch.setattr(cache, "BATCH", 4)


def fill(folder, task, samples, rank=0, processes=1, problems=None):
    with torch.no_grad():
        cache.fill(folder, samples, task, 0, torch.float32, problems or Problems(), rank, processes, progress=False)
    cache.fill_text(folder, task.base, torch.float32, rank, processes)


def contents(folder, options, count=2 * COUNT):
    data = cache.Cache(folder, options)
    return data, [data[number] for number in range(count)]


def same(some, others) -> bool:
    return all(
        one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
        for one, other in zip(some, others, strict=True)
    )


def test_an_interrupted_cache_is_gone_on_with(tmp_path, task, samples):
    def stopped():
        yield from samples[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, task, stopped())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(before) == 2  # four samples; the fifth waited for company
    assert [cache.next_row(tmp_path, *who) for who in ((0, 1), (0, 2), (1, 1))] == [4, 0, 0]
    encoded = []
    real = task.encode
    task.encode = lambda views: encoded.append(len(views)) or real(views)
    fill(tmp_path, task, samples)
    task.encode = real
    assert sum(encoded) == 2 * (COUNT - 4)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    data, rows = contents(tmp_path, task.options)
    assert [group[0] for group in data.groups] == [one["key"] for one in samples]
    epochs = rows[:COUNT], rows[COUNT:]
    for epoch in epochs:
        assert len({float(row["moments"][0].sum().abs() + row["hint"].sum()) for row in epoch}) == COUNT


def test_who_encodes_and_in_which_order_does_not_matter(tmp_path, task, samples):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "one", task, samples)
    for rank in (1, 0):
        fill(tmp_path / "two", task, samples[rank::2][::-1], rank, 2)
    fill(tmp_path / "two", task, [], 1, 2)  # captions that were not there yet when it came to its own
    (one, rows), (two, others) = (contents(tmp_path / name, task.options) for name in ("one", "two"))
    assert [group[0] for group in one.groups] == [group[0] for group in two.groups] and same(rows, others)


def test_workers_read_the_same(tmp_path, task, samples):
    fill(tmp_path, task, samples)
    found = []
    for workers in ("0", "1"):
        options = saliency_options(tmp_path, "--dataloader_num_workers", workers)
        found.append(list(cache.Cache(tmp_path, options).feed(3, 6)))
    for (numbers, batch), (others, other) in zip(*found, strict=True):
        assert numbers == others and same([batch], [other])


def test_captions_are_dropped_as_often_as_asked_for(tmp_path, task, samples):
    fill(tmp_path, task, samples)
    options = saliency_options(tmp_path, "--proportion_empty_prompts", "0.25")
    data, rows = contents(tmp_path, options, 400)
    empty = data.empty_text(1)["context"][0]
    assert 0.2 < sum(torch.equal(row["context"], empty) for row in rows) / 400 < 0.3
    views = [row["hint"] for row in rows[::COUNT]]
    assert len({float(view.flatten()[:2000].sum()) for view in views}) > 1


def test_samples_that_cannot_be_used_are_told_and_counted(tmp_path, task, samples):
    small = {**samples[0], "key": "small.png", "image": Image.new("RGB", (32, 100))}
    problems = Problems()
    fill(tmp_path, task, [small, *samples[1:3]], problems=problems)
    assert problems.told == [("small.png", "smaller than --resolution: it is 32x100, wanted are 64x64")]
    assert problems.summary() == "1 left out: 1 smaller than --resolution"
    assert len(cache.Cache(tmp_path, task.options)) == 2


def test_a_full_disk_keeps_what_is_there(tmp_path, task, samples, monkeypatch):
    saves, real = itertools.count(), safetensors.torch.save_file

    def full(tensors, path, about):
        real(tensors, path, about)
        if next(saves) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(LimelightError, match="--cache_dir: .*could not be written.*No space left.*what is cached"):
        fill(tmp_path, task, samples)
    assert [path.name for path in tmp_path.iterdir()] == ["views-000-00000.safetensors"]
    fill(tmp_path, task, samples)
    assert len(contents(tmp_path, task.options)[0]) == COUNT


def test_other_data_or_settings_have_another_folder(tmp_path):
    first = cache.folder_for(tmp_path, source="a", settings={"resolution": (64, 64)})
    assert first == cache.folder_for(tmp_path, settings={"resolution": (64, 64)}, source="a")
    assert first != cache.folder_for(tmp_path, source="a", settings={"resolution": (64, 128)})
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("1")
    before = cache.source_fingerprint(data)
    assert before == cache.source_fingerprint(data)
    (data / "b.txt").write_text("1")
    assert before != cache.source_fingerprint(data)
