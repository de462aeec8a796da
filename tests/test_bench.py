"""The benches run, on tiny random networks; what they measure is in test_reader.py and test_placement.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from limelight.bench import placement, table
from limelight.bench.prompts import stroke_of, two_object_prompts
from limelight.bench.sheets import save_sheet
from limelight.guidance.attention.published import METHODS
from limelight.guidance.attention.published.base import coarse_blocks
from limelight.shapeworld.reader import read
from limelight.shapeworld.scenes import random_scene, render


@pytest.fixture
def world(make_sd15, clip_l):
    """Random networks of the host in shapeworld's place."""
    import comfy.sd
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from limelight.bench.sampling import World

    sizes = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    sizes |= {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    torch.manual_seed(0)
    weights = AutoencoderKL(ddconfig=dict(sizes), embed_dim=4).state_dict()
    return World(make_sd15(), clip_l, comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": sizes, "embed_dim": 4}}))


@pytest.fixture
def two_steps(monkeypatch):
    monkeypatch.setattr("limelight.bench.sampling.STEPS", 2)


def test_placement_has_every_row_and_metric(world, two_steps, tmp_path) -> None:
    prompt = two_object_prompts(0, 1)[0]
    found = [placement.prompt_scores(world, 0, prompt, 0, list(placement.ROWS), tmp_path / "sheets")]
    rows = placement.summaries(list(placement.ROWS), found)
    by_name = {row["row"]: row for row in rows}
    assert list(by_name)[:4] == ["unguided", "limelight", "bias", "bias+limelight"]
    assert {f"{row} {sampler}" for row in placement.ROWS for sampler in placement.SAMPLERS} < by_name.keys()
    for row in rows:
        assert {"hit", "presence", "orientation_error_deg", "overhead"} < row.keys()
        assert 0 <= row["hit_low"] <= row["hit"] <= row["hit_high"] <= 1 and row["hit"] <= row["presence"] <= 1
        assert row["overhead"] == 1 if row["row"].startswith("unguided") else row["overhead"] > 0
    assert (tmp_path / "sheets" / "0000.png").is_file()

    table.write("placement", rows, table.command("placement", 1, 0), tmp_path / "placement.json", steps=2)
    written = json.loads((tmp_path / "placement.json").read_text())
    assert written["rows"] == rows and written["name"] == "placement"


def test_the_same_latent_as_the_ksampler_node(world, two_steps) -> None:
    import torch

    import nodes
    from limelight.bench import sampling

    caption = two_object_prompts(0, 1)[0].caption
    positive, negative = sampling.encode(world.clip, caption), sampling.encode(world.clip, "")
    actual, seconds = sampling.sample(world.model, positive, negative, 7, "dpmpp_2m")
    with torch.inference_mode():
        encode = nodes.CLIPTextEncode().encode
        conditionings = [encode(world.clip, text)[0] for text in (caption, "")]
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        expected = nodes.common_ksampler(
            world.model, 7, 2, sampling.SCALE, "dpmpp_2m", sampling.SCHEDULER, *conditionings, latent
        )[0]["samples"]
    assert seconds > 0 and actual.isfinite().all()
    assert torch.equal(actual, expected)
    image = sampling.decode(world.vae, torch.zeros(1, 4, 16, 16))
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8


def test_presets_move_the_latent(world, two_steps) -> None:
    from limelight.bench import sampling
    from limelight.bench.prompts import document, strokes_for
    from limelight.guidance.prompts.binding import KEY, bind

    prompt = two_object_prompts(0, 1)[0]
    highlights = bind(world.clip, prompt.caption, document(strokes_for(0, 0, prompt)))
    positive = sampling.encode(world.clip, prompt.caption, **{KEY: highlights})
    negative = sampling.encode(world.clip, "")
    plain = sampling.sample(world.model, positive, negative, 1)[0]
    for row in METHODS:
        latent = sampling.sample(placement.guided(world.model, row), positive, negative, 1)[0]
        assert latent.isfinite().all() and not latent.equal(plain)


def test_published_losses_see_the_maps_nearest_to_16(make_sd15) -> None:
    network = make_sd15().model.diffusion_model
    for latent, side in (((16, 16), 16), ((64, 64), 16), ((32, 48), 16), ((8, 8), 8)):
        blocks = coarse_blocks(network, *latent)
        assert blocks and all(min(block.grid) == side for block in blocks)


def test_scores_of_perfect_and_empty_images() -> None:
    rng = np.random.default_rng(2)
    prompt = two_object_prompts(2, 1)[0]
    scene = random_scene(rng, list(prompt.kinds))
    strokes = [stroke_of(rng, thing) for thing in scene.things]
    perfect = placement.score(read(render(scene)[0]), prompt, strokes)
    assert perfect["hit"] == [True, True] and perfect["presence"] == [1]
    assert all(error < 3 for error in perfect["orientation_error_deg"])
    empty = placement.score([], prompt, strokes)
    assert empty == {"hit": [False, False], "presence": [0], "orientation_error_deg": []}


def test_summary_pools_samplers() -> None:
    each = {"hit": [1, 0], "presence": [1.0], "orientation_error_deg": [], "seconds": [1.0], "plain": [1.0]}
    other = {"hit": [1, 1], "presence": [0.5], "orientation_error_deg": [4.0, 10.0, 40.0], "seconds": [3.0]}
    scores = {"limelight euler": each, "limelight dpmpp_2m": {**other, "plain": [1.0]}}
    missed = {key: {**values, "hit": [0, 0]} for key, values in scores.items()}
    assert placement.summary("limelight", "limelight", placement.SAMPLERS, [scores, missed]) == {
        "row": "limelight",
        "hit": 0.375,
        "hit_low": 0.0,
        "hit_high": 0.75,
        "presence": 0.75,
        "orientation_error_deg": 10.0,
        "overhead": 2.0,
    }


def test_no_folder_no_sheet(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_sheet(None, 0, "", {"unguided": np.zeros((128, 128, 3), np.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_scores_resume(tmp_path) -> None:
    path = tmp_path / "scores.jsonl"
    assert placement.resumed(path) == placement.resumed(None) == {}
    lines = [{"index": 3, "scores": {"limelight euler": 1}}, {"index": 3, "scores": {"boxdiff euler": 2}}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    assert placement.resumed(path) == {3: {"limelight euler": 1, "boxdiff euler": 2}}
