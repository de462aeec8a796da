"""What the example workflows about saliency show that steer nothing: `test_workflows` runs them like all others."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from stand_ins import STAND_IN
from test_workflows import STEPS, run

from limelight.bench.workflow import load_workflow, of_type, on_shapeworld, to_prompt
from limelight.tools.in_process import ROOT

LEFT = {"x": 0.2, "y": 0.5, "sx": 0.15, "sy": 0.15, "angle": 0, "amplitude": 1, "mode": "attract"}


@pytest.fixture
def prompt_of(server):
    """-> function (workflow's name) -> its API prompt on shapeworld."""

    def read(name: str) -> dict:
        workflow = on_shapeworld(load_workflow(ROOT / "workflows" / f"{name}.json"), stand_in=STAND_IN)
        prompt = to_prompt(workflow, server.client.object_info())
        for sampler in of_type(prompt, "KSampler"):
            sampler["inputs"]["steps"] = STEPS
        return prompt

    return read


def shown(server, prompt: dict) -> dict[str, list]:
    """What the nodes show, by their types: texts, and entries of pictures."""
    found: dict[str, list] = {}
    for key, output in server.client.run_workflow(prompt)["outputs"].items():
        found.setdefault(prompt[key]["class_type"], []).extend(output.get("text") or output.get("images") or [])
    return found


def draw(prompt: dict, **changes) -> None:
    (editor,) = of_type(prompt, "LimelightSaliencyEditor")
    editor["inputs"]["blobs"] = json.dumps({"version": 1, "blobs": [LEFT | changes]})


def test_the_closed_loop_keeps_the_image_with_the_best_score(server, prompt_of):
    prompt = prompt_of("saliency_closed_loop")
    kept = {}
    for x in (0.2, 0.8):
        draw(prompt, x=x)
        found = shown(server, prompt)
        choice, score = sorted(found["PreviewAny"], key=lambda text: text[:2] != "1.")
        lines = choice.splitlines()
        values = [float(line.split()[-1]) for line in lines]
        assert len(lines) == 8 and values == sorted(values, reverse=True) and values[0] > values[-1]
        assert sorted(int(line.split()[2].rstrip(":")) for line in lines) == list(range(8))
        assert len(found["SaveImage"]) == 1
        assert f"{values[0]:.3f}" in score  # of the map that came with the kept image
        kept[x] = lines[0].split()[2]
    assert kept[0.2] != kept[0.8]  # who wants the left side looked at gets another image


def test_the_report_names_the_regions_and_shows_them(server, prompt_of):
    prompt = prompt_of("saliency_report")
    (report,) = of_type(prompt, "LimelightAttentionReport")
    report["inputs"]["names"] = "product, headline"
    found = shown(server, prompt)
    table, values = sorted(found["PreviewAny"], key=lambda text: text[0] == "{")
    assert [line.split(",")[1] for line in table.splitlines()] == ["name", "product", "headline", "region 3"]
    rows = json.loads(values)["images"][0]["regions"]
    assert rows[0]["rank"] == 1 and rows[0]["attention_share"] > 0.5  # the picture has one thing, inside that box
    assert len(found["LimelightAttentionReport"]) == len(found["PreviewImage"]) == 1


def test_a_map_for_other_displays(server, prompt_of):
    prompt = prompt_of("saliency_retarget_display")
    draw(prompt, sx=0.04, sy=0.04)
    maps = {}
    for key, output in server.client.run_workflow(prompt)["outputs"].items():
        source = prompt[prompt[key]["inputs"]["mask"][0]]
        image = Image.open(io.BytesIO(server.client.file(output["images"][0])))
        maps[source["inputs"].get("display", "drawn")] = np.asarray(image.convert("L"), np.float64)
    assert set(maps) == {"drawn", "phone, upright", "billboard", "wide field of view"}
    drawn, phone = maps["drawn"], maps["phone, upright"]
    assert drawn.shape == maps["wide field of view"].shape == (72, 128)
    assert phone.shape[0] / phone.shape[1] == pytest.approx(1920 / 1080, rel=0.02)
    bright = {name: (one > one.max() / 2).mean() for name, one in maps.items()}
    assert bright["phone, upright"] > 2 * bright["drawn"]  # a degree is a large part of a telephone
    assert bright["wide field of view"] == pytest.approx(bright["drawn"], rel=0.1)


def test_the_layout_stays_while_the_map_moves(server, prompt_of):
    prompt = prompt_of("saliency_fixed_layout")
    first = run(server, prompt)
    draw(prompt)
    moved = first | run(server, prompt)
    (layout,) = of_type(prompt, "ControlNetApplyAdvanced")
    layout["inputs"]["strength"] = 0.0
    free = moved | run(server, prompt)
    before, after = sorted(first, key=lambda key: "after" in prompt[key]["inputs"]["filename_prefix"])
    assert np.array_equal(first[before], moved[before]) and np.array_equal(first[before], free[before])
    assert not np.array_equal(first[after], moved[after]) and not np.array_equal(moved[after], free[after])
