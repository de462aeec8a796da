"""The nodes that show and rate attention, on the host's own classes and in a running host."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limelight.guidance.attention.recording import Recorded, Recording, Step
from limelight.guidance.errors import LimelightError
from limelight.tools.client import cached_nodes

LEFT, RIGHT = [0.1, 0.25, 0.4, 0.75], [0.6, 0.25, 0.9, 0.75]


def document(*boxes: tuple[str, list[float]]) -> dict:
    return {
        "version": 1,
        "highlights": [
            {"phrase": phrase, "color": color, "instances": [{"shapes": [{"type": "box", "box": box}]}]}
            for (phrase, box), color in zip(boxes, ("#ff0000", "#0000ff"), strict=False)
        ],
    }


PAIR = document(("red circle", LEFT), ("blue bar", RIGHT))


def recorded(batch: int = 1, latent: tuple[int, int] = (16, 32), value: dict = PAIR) -> Recording:
    """A run of two steps: flat maps, then each phrase with all the attention of its half of the image (h, 2 h)."""
    from limelight.guidance.regions.document import parse

    recording, (height, width) = Recording(), latent
    highlights = parse(value).highlights
    recording.begin([Recorded(highlight, None) for highlight in highlights], latent, 2)
    halves = torch.zeros(2, batch, height, width)
    halves[0, :, :, : width // 2] = 1
    halves[1, :, :, width // 2 :] = 1
    count = len(highlights)
    recording.keep(Step(0, 0.0, [torch.full_like(halves[0], 0.5)] * count, torch.full((batch, count), 0.7)))
    recording.keep(Step(1, 1.0, list(halves[:count]), torch.tensor([[0.1, torch.nan]] * batch)[:, :count]))
    return recording


@pytest.fixture(scope="module")
def nodes(host):
    from limelight.nodes import highlight_analysis, highlight_score

    return {node.__name__: node for node in highlight_analysis.NODES + highlight_score.NODES}


@pytest.fixture(scope="module")
def preview(nodes):
    return nodes["LimelightAttentionPreview"].execute


@pytest.fixture(scope="module")
def rate(nodes):
    return nodes["LimelightHighlightScore"].execute


def gray(height: int = 64, width: int = 128, batch: int = 1) -> torch.Tensor:
    return torch.full((batch, height, width, 3), 0.5)


# Attention Preview ------------------------------------------------------------------------------------------------


def test_sheet_shows_heat_where_the_attention_is(preview):
    sheet, curve, masks, text = preview(recorded(), gray(), "all", opacity=1.0, cell_size=128).args
    assert sheet.shape[0] == curve.shape[0] == 1 and sheet.dtype == curve.dtype == torch.float32
    picture = sheet[0].numpy()
    columns = [gap + column * (128 + gap) for gap in (5,) for column in range(3)]
    rows = [22 + 22, 22 + 22 + (64 + 22 + 5)]
    cells = [[picture[top : top + 64, left : left + 128] for left in columns] for top in rows]
    for row, outlined in zip(cells, (0, 1), strict=True):
        image, flat, final = (cell[4:40] for cell in row)  # above the caption
        for half in (0, 1):
            shade = final[:10, half * 64 + 4 : half * 64 + 60].mean()
            assert shade > 0.8 if half == outlined else shade < 0.1
        assert flat[:8].std(axis=(0, 1)).max() < 0.02 and 0.2 < flat[:8].mean() < 0.6
        assert np.allclose(image[:8], 0.5, atol=0.01)
        own, other = (image[12:, half * 64 : half * 64 + 64] for half in (outlined, 1 - outlined))
        assert own.max() == 1 and own.min() == 0 and other.std() < 0.01, "white outline with dark edges, no others"


def test_masks_and_losses(preview):
    _, _, masks, text = preview(recorded(batch=2), gray(64, 128, 2), "last").args
    assert masks.shape == (4, 64, 128)  # two images of two highlights
    assert torch.equal(masks[:2], masks[2:]) and (masks[0, :, :60] == 1).all() and (masks[1, :, :60] == 0).all()
    assert text.splitlines() == [
        "step 1 (100 %), image 1: red circle 0.100, blue bar off",
        "step 1 (100 %), image 2: red circle 0.100, blue bar off",
    ]


def test_loss_curve_has_a_line_a_phrase_in_its_colour(preview):
    curve = preview(recorded(), gray(), "all")[1][0].numpy()
    plot = curve[:, : curve.shape[1] - 220]
    red = (plot[..., 0] > 0.9) & (plot[..., 1:] < 0.2).all(-1)
    blue = (plot[..., 2] > 0.9) & (plot[..., :2] < 0.2).all(-1)
    rows, columns = np.nonzero(red)
    assert columns.max() - columns.min() > 400 and rows.max() - rows.min() > 200, "from 0.7 down to 0.1"
    assert rows[columns.argmin()] < rows[columns.argmax()]
    assert 10 < blue.sum() < 60, "one point: the second step has no loss"


@pytest.mark.parametrize("steps", ["first", "all"])
@pytest.mark.parametrize(("latent", "size"), [((17, 23), (136, 184)), ((8, 40), (64, 320)), ((64, 64), (24, 24))])
def test_any_size(preview, steps, latent, size):
    sheet, curve, masks, _ = preview(recorded(latent=latent), gray(*size), steps, cell_size=64).args
    assert masks.shape == (2, *size)
    assert sheet.shape[1] > 100 and sheet.shape[2] > 100 and 0 <= sheet.min() and sheet.max() <= 1


def test_very_many_steps_and_highlights_fit_on_a_sheet(preview):
    from limelight.guidance.attention.sheet import MAX_SHEET
    from limelight.guidance.regions.document import parse

    one = document(("red circle", LEFT))["highlights"][0]
    value = {"version": 1, "highlights": [{**one, "phrase": f"a very long phrase number {i}"} for i in range(30)]}
    recording = Recording()
    recording.begin([Recorded(highlight, None) for highlight in parse(value).highlights], (16, 32), 200)
    for index in range(200):
        recording.keep(Step(index, index / 199, [torch.rand(1, 16, 32)] * 30, torch.rand(1, 30)))
    sheet, curve, _, text = preview(recording, gray(), "all", cell_size=1024).args
    assert sheet.shape[2] <= MAX_SHEET + 200 and curve.shape[1:] == (384, 768, 3)
    assert len(text.splitlines()) == 200


EMPTY = Recording()
WITHOUT = Recording()
WITHOUT.begin([], (16, 32), 4)
STOPPED = Recording()
STOPPED.begin(recorded().highlights, (16, 32), 4)


@pytest.mark.parametrize(
    ("record", "image", "changes", "message"),
    [
        (EMPTY, gray(), {}, "^record: nothing was recorded. Connect the model output of Attention Record"),
        (WITHOUT, gray(), {}, "^record: the sampler ran, but its positive .*Highlight Prompt"),
        (STOPPED, gray(), {}, "^record: the sampler ran, but no attention was seen"),
        (recorded(), gray(64, 128, 3), {}, "^image: found 3, but the record is of a run of 1"),
        (recorded(), gray(64, 64), {}, "^image: found 64x64, but the record is of a latent of 32x16"),
        (recorded(), torch.ones(64, 128, 3), {}, "^image: found a tensor of shape"),
        (recorded(), gray(), {"steps": "2"}, "^steps: found '2'; expected .*from 0 to 1"),
        (recorded(), gray(), {"opacity": 1.5}, "^opacity: found 1.5"),
        (recorded(), gray(), {"cell_size": 0}, "^cell_size: found 0"),
    ],
)
def test_preview_errors(preview, record, image, changes, message):
    with pytest.raises(LimelightError, match=message):
        preview(record, image, **changes)


def test_bad_interval(nodes, tiny_sd15):
    with pytest.raises(LimelightError, match="^every: found 0; expected a whole number from 1"):
        nodes["LimelightAttentionRecord"].execute(tiny_sd15, 0)


# Highlight Score --------------------------------------------------------------------------------------------------


def box_masks(*boxes: list[float] | None, side: int = 100) -> torch.Tensor:
    masks = torch.zeros(len(boxes), side, side)
    for mask, box in zip(masks, boxes, strict=True):
        if box:
            x0, y0, x1, y1 = (round(side * v) for v in box)
            mask[y0:y1, x0:x1] = 1
    return masks


def test_scores_of_masks(rate):
    text, table, picture, mean = rate(PAIR, masks=box_masks(LEFT, None)).args
    result = json.loads(text)
    (one,) = result["images"]
    assert [h["phrase"] for h in one["highlights"]] == ["red circle", "blue bar"]
    assert [h["iou"] for h in one["highlights"]] == [1, 0]
    assert one["highlights"][1]["centroid_error"] is None
    assert result["mean_iou"] == mean == 0.5
    assert "blue bar" in table and picture.shape == (1, 384, 384, 3)


def test_scores_of_several_images(rate):
    masks = torch.cat([box_masks(LEFT, RIGHT), box_masks(RIGHT, LEFT)])
    text, table, picture, mean = rate(PAIR, masks=masks, image=gray(600, 600, 2)).args
    result = json.loads(text)
    assert [one["mean_iou"] for one in result["images"]] == [1, 0] and mean == result["mean_iou"] == 0.5
    assert table.count("image ") == 2 and picture.shape == (2, 600, 600, 3)


def test_a_soft_mask_counts_from_the_threshold_up(rate):
    one = document(("red circle", LEFT))
    for threshold, iou in ((0.4, 1.0), (0.41, 0.0)):
        assert rate(one, threshold, masks=0.4 * box_masks(LEFT))[3] == pytest.approx(iou)


def test_scores_of_a_record(rate, preview):
    record, image = recorded(batch=2), gray(64, 128, 2)
    text, _, _, mean = rate(PAIR, record=record, image=image).args
    for one in json.loads(text)["images"]:
        for each in one["highlights"]:
            assert each["iou"] == pytest.approx(0.3 * 0.5 / 0.5, abs=0.01)  # a box in a half that it does not fill
            assert each["stroke_coverage"] == 1
    masks = preview(record, image, "last")[2]
    assert rate(PAIR, masks=masks, image=image)[3] == pytest.approx(mean)
    swapped = {"version": 1, "highlights": PAIR["highlights"][::-1]}
    assert rate(swapped, record=record, image=image)[3] == pytest.approx(mean), "matched by phrase, not by order"


OTHER = document(("green square", LEFT))


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        (PAIR, {}, "^masks, record: found neither; expected one of them"),
        (PAIR, {"masks": box_masks(LEFT, RIGHT), "record": recorded()}, "^masks, record: found both"),
        (PAIR, {"record": recorded()}, "^image: found nothing; expected the decoded image"),
        (PAIR, {"record": EMPTY, "image": gray()}, "^record: nothing was recorded"),
        (OTHER, {"record": recorded(), "image": gray()}, "^record: the highlight 'green square' was not in force"),
        (PAIR, {"masks": box_masks(LEFT)}, "^masks: found 1 for 2 highlights; expected one for each"),
        (PAIR, {"masks": box_masks(LEFT, LEFT), "image": gray(batch=2)}, "^masks: found 2 for 2 highlights and 2 im"),
        (PAIR, {"masks": torch.ones(2, 2, 2, 3)}, "^masks: found a tensor of shape"),
        (PAIR, {"masks": box_masks(LEFT, RIGHT) * float("nan")}, "^masks 1 of 2: found values that are not numbers"),
        (PAIR, {"masks": box_masks(LEFT, RIGHT), "threshold": 0.0}, "^threshold: found 0.0; expected"),
        ({"version": 1, "highlights": []}, {"masks": box_masks(LEFT)}, "^highlights: found none"),
    ],
)
def test_score_errors(rate, value, changes, message):
    with pytest.raises(LimelightError, match=message):
        rate(value, **changes)


# In the host ------------------------------------------------------------------------------------------------------


def test_record_preview_and_score_in_the_host(server):
    """Also when the sampler runs again with the cached recorded model, and when only the preview changes."""
    text = "a red circle and a blue bar on a gray background"
    graph = {
        "1": ("ShapeworldLoader", {}),
        "2": ("LimelightHighlightFromJSON", {"text": json.dumps(PAIR)}),
        "3": ("LimelightHighlightPrompt", {"clip": ["1", 1], "text": text, "highlights": ["2", 0]}),
        "4": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "5": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 2}),
        "6": ("LimelightAttentionRecord", {"model": ["1", 0]}),
        "7": (
            "KSampler",
            {"model": ["6", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0], "seed": 1}
            | {"steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "8": ("VAEDecode", {"samples": ["7", 0], "vae": ["1", 2]}),
        "9": ("LimelightAttentionPreview", {"record": ["6", 1], "image": ["8", 0], "steps": "all", "opacity": 0.6}),
        "10": (
            "LimelightHighlightScore",
            {"highlights": ["2", 0], "threshold": 0.3, "record": ["6", 1], "image": ["8", 0]},
        ),
        "11": ("PreviewAny", {"source": ["9", 3]}),
    }
    prompt = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in graph.items()}
    runs, tables = [], []
    for change in ({}, {"7": {"seed": 2}}, {"9": {"steps": "last"}}):
        for key, inputs in change.items():
            prompt[key]["inputs"].update(inputs)
        entry = server.client.run_workflow(prompt)
        outputs = entry["outputs"]
        assert len(outputs["9"]["images"]) == 4  # a sheet and a curve for each image
        if "10" not in cached_nodes(entry["status"]["messages"]):
            tables += outputs["10"]["text"]
        runs.append(outputs["11"]["text"][0])
    assert [len(lines.splitlines()) for lines in runs] == [8, 8, 2]
    assert len(tables) == 2 and all("mean" in table for table in tables), "the third run leaves the score in the cache"
    assert runs[0] != runs[1] and runs[1].splitlines()[-2:] == runs[2].splitlines()
    assert server.complaints() == []
