"""The saliency nodes: maps, displays, prediction, scores, through the host's own classes."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import display as saliency_display
from limelight.guidance.saliency import maps as saliency_maps
from limelight.guidance.saliency import metrics as metrics
from limelight.guidance.saliency import report as saliency_report


@pytest.fixture(scope="module")
def nodes(host):
    """-> function (node id, *arguments) -> the outputs of the node."""
    from limelight.nodes import saliency_display, saliency_maps, saliency_predict, saliency_score

    every = [saliency_maps, saliency_display, saliency_predict, saliency_score]
    known = {node.GET_SCHEMA().node_id: node for module in every for node in module.NODES}

    def run(name: str, *args, **kwargs):
        with torch.inference_mode():
            return known[f"Limelight{name}"].execute(*args, **kwargs).result

    return run


def disc(height: int, width: int, y: float, x: float, radius: float = 0.1) -> torch.Tensor:
    """A white disc: (1, h, w). Radius and middle in shares of the height, and of each side."""
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    away = (rows - y).square() + ((columns - x) * width / height).square()
    return (away.sqrt() < radius).float()[None]


def test_one_blob_is_its_gaussian():
    """The example of GazeFusion's authors: (0.8, 0.6), sigma (0.20, 0.15), amplitude 0.70."""
    blob = {"x": 0.8, "y": 0.6, "sx": 0.2, "sy": 0.15, "amplitude": 0.7}
    (parsed,) = saliency_maps.parse_blobs({"version": 1, "blobs": [blob]})
    found = saliency_maps.gaussians([parsed], 512, 512)
    at = (np.arange(512) + 0.5) / 512
    expected = 0.7 * np.exp(-(((at - 0.8) / 0.2) ** 2)[None] / 2 - (((at - 0.6) / 0.15) ** 2)[:, None] / 2)
    assert np.abs(found - expected).max() < 1e-6
    turned = saliency_maps.gaussians([parsed | {"angle": 90.0, "x": 0.5, "y": 0.5}], 65, 65)
    upright = saliency_maps.gaussians([parsed | {"sx": 0.15, "sy": 0.2, "x": 0.5, "y": 0.5}], 65, 65)
    assert np.abs(turned - upright).max() < 1e-6
    tilted = saliency_maps.gaussians([parsed | {"angle": 30.0, "sy": 0.05, "x": 0.5, "y": 0.5}], 100, 200)
    assert tilted[75, 143] > 5 * tilted[25, 143]  # clockwise: down on the right
    both = saliency_maps.gaussians([parsed, parsed | {"mode": "suppress"}], 64, 64)
    alone = saliency_maps.gaussians([parsed], 64, 64)
    assert np.abs(both - alone * (1 - alone)).max() < 1e-6
    with pytest.raises(LimelightError, match=r"blobs\[0\].sx: found 0"):
        saliency_maps.parse_blobs({"version": 1, "blobs": [blob | {"sx": 0}]})
    with pytest.raises(LimelightError, match=r"blobs\[0\].mode: found 'push'"):
        saliency_maps.parse_blobs({"version": 1, "blobs": [blob | {"mode": "push"}]})


def test_blur_is_scipys():
    values = np.random.default_rng(0).random((40, 61)).astype(np.float32)
    for sigma in (2, 5, 30):
        expected = gaussian_filter(values.astype(float), sigma, mode="reflect", truncate=8)
        assert np.abs(saliency_maps.blur(values, sigma) - expected).max() < 1e-5
    assert saliency_maps.blur(values, 0) is values


def test_resizing_keeps_places_and_amplitude():
    found = saliency_maps.resize(disc(64, 64, 0.3, 0.7).numpy() * 0.6, 96, 200)
    row, column = np.argwhere(found[0] > 0.5).mean(0)
    assert (row / 96, column / 200) == (pytest.approx(0.3, abs=0.02), pytest.approx(0.7, abs=0.02))
    assert found.max() == pytest.approx(0.6, abs=1e-6)


def test_map_from_mask(nodes):
    masks = torch.cat([disc(60, 90, 0.3, 0.3), disc(60, 90, 0.6, 0.6)])
    (found,) = nodes("SaliencyFromMask", masks, 5.0, 0.7)
    assert found.shape == masks.shape and found.dtype == torch.float32
    for one, mask in zip(found, masks, strict=True):
        assert one.max() == pytest.approx(0.7) and 0 < one[mask > 0].min()
        assert torch.equal(nodes("SaliencyFromMask", mask[None], 5.0, 0.7)[0][0], one)
    (sharp,) = nodes("SaliencyFromMask", masks, 0.0, 1.0)
    assert torch.equal(sharp, masks)
    (spared,) = nodes("SaliencyFromMask", masks, 0.0, 1.0, disc(120, 180, 0.3, 0.3, 0.2))
    assert spared[0].max() < 1e-3 and torch.equal(spared[1], masks[1])
    with pytest.raises(LimelightError, match="mask: found an empty one"):
        nodes("SaliencyFromMask", torch.zeros(1, 8, 8))
    with pytest.raises(LimelightError, match="mask: found values that are not numbers"):
        nodes("SaliencyFromMask", torch.full((1, 8, 8), math.nan))


def test_map_from_fixations(nodes):
    size = {"width": 100, "height": 60, "pixels_per_degree": 3.0}
    lines = "t;y;x;dur\n1;20;70;100\n2;20;70;100\n3;nan;;\n4;50;10;100"
    (found,) = nodes("SaliencyFromFixations", lines, **size)
    assert found.shape == (1, 60, 100) and found.max() == 1
    assert np.unravel_index(found[0].argmax(), (60, 100)) == (20, 70)
    assert found[0, 50, 10] == pytest.approx(0.5, abs=1e-3)
    assert found[0, 20, 73] == pytest.approx(math.exp(-0.5), abs=1e-3)  # one degree to the side
    lines = "0.705 0.34 1\n0.705 0.34 1\n0.105 0.84 1"
    (shares,) = nodes("SaliencyFromFixations", lines, unit="shares of the picture (0..1)", **size)
    assert torch.equal(shares, found)
    for text, match in {
        "": "found no line",
        "a,b\n1,2": "found the columns a, b",
        "x,y\n?,?": "found no line with two numbers",
        "900,20": "none of the 1 points lies in the picture",
    }.items():
        with pytest.raises(LimelightError, match=match):
            nodes("SaliencyFromFixations", text, width=100, height=60)


def test_adjust(nodes):
    one, two = disc(50, 80, 0.3, 0.3) * 0.5, disc(100, 160, 0.7, 0.7) * 0.8
    assert torch.equal(nodes("SaliencyAdjust", one)[0], one)
    (joined,) = nodes("SaliencyAdjust", one, other=two)
    assert joined.shape == one.shape and joined[0, 15, 24] == 0.5 and joined[0, 35, 56] == pytest.approx(0.8)
    (batch,) = nodes("SaliencyAdjust", torch.cat([one, one * 0.5]), other=two, blend="sum")
    assert torch.equal(batch[:1], nodes("SaliencyAdjust", one, other=two, blend="sum")[0])
    (half,) = nodes("SaliencyAdjust", one, suppression=0.5, suppress=torch.ones(1, 9, 9))
    assert torch.allclose(half, one / 2)
    (peak,) = nodes("SaliencyAdjust", one, normalize="peak at 1")
    assert torch.allclose(peak, one * 2)
    (stretched,) = nodes("SaliencyAdjust", one * 0.5 + 0.2, normalize="stretch to 0..1")
    assert torch.allclose(stretched, one * 2, atol=1e-6)
    (blurred,) = nodes("SaliencyAdjust", one, blur=4.0)
    assert blurred.sum() == pytest.approx(one.sum().item(), rel=1e-4)
    (middle,) = nodes("SaliencyAdjust", torch.ones(1, 60, 80), centre_bias=1.0)
    assert middle[0, 30, 40] == pytest.approx(1, abs=0.01) and middle[0, 0, 0] < 0.01
    with pytest.raises(LimelightError, match="found a flat map"):
        nodes("SaliencyAdjust", torch.zeros(1, 8, 8), normalize="stretch to 0..1")
    with pytest.raises(LimelightError, match="saliency, other: found 2 and 3"):
        nodes("SaliencyAdjust", torch.ones(2, 8, 8), other=torch.ones(3, 8, 8))


def test_degrees_of_a_display():
    desk = saliency_display.Display(60, 57.29, 1200, 800)  # at 57.29 cm one degree is one centimetre
    assert desk.pixels_per_degree == pytest.approx(20, rel=1e-3)
    assert desk.degree == pytest.approx(20 / 800, rel=1e-3)
    assert desk.field_of_view == pytest.approx(2 * math.degrees(math.atan(30 / 57.29)))
    assert desk.predictor_scale == pytest.approx(60 / (1024 / 35), rel=1e-3)
    phone, wide = (saliency_display.PRESETS[name] for name in ("phone, upright", "wide field of view"))
    assert phone.degree > saliency_display.PRESETS["desktop"].degree > wide.degree
    assert wide.field_of_view > 100 and 0.25 <= phone.predictor_scale < 1 < wide.predictor_scale <= 3


def test_a_map_for_another_display(nodes):
    mask = disc(90, 120, 0.5, 0.5, 0.2) * 0.7
    display, pixels, blur, scale, _ = nodes("ViewingConditions", "phone, upright")
    phone = saliency_display.PRESETS["phone, upright"]
    assert (display, pixels, scale) == (phone, phone.pixels_per_degree, phone.predictor_scale)
    assert blur == pytest.approx(100 * phone.degree)
    desk = nodes("ViewingConditions", "desktop")[0]
    *_, softer = nodes("ViewingConditions", "phone, upright", saliency=mask, made_for=desk)
    sigma = 90 * math.sqrt(phone.degree**2 - desk.degree**2)
    expected = gaussian_filter(mask[0].numpy().astype(float), sigma, mode="reflect", truncate=8)
    assert np.abs(softer[0].numpy() - expected * 0.7 / expected.max()).max() < 1e-4
    *_, same = nodes("ViewingConditions", "desktop", saliency=mask, made_for=phone)
    assert torch.equal(same, mask)
    *_, reshaped = nodes("ViewingConditions", "phone, upright", saliency=mask, made_for=phone, reshape=True)
    assert reshaped.shape == (1, 136, 80)  # 9:16, as many pixels, in steps of 8
    with pytest.raises(LimelightError, match="width_cm: found 0"):
        nodes("ViewingConditions", "as given below", width_cm=0.0)
    from comfy_execution.graph_utils import ExecutionBlocker

    assert isinstance(nodes("ViewingConditions", "desktop")[4], ExecutionBlocker)


def picture(height: int, width: int, y: float, x: float) -> torch.Tensor:
    spot = disc(height, width, y, x)[0][..., None]
    return (spot * torch.tensor([0.8, 0.3, 0.2]) + (1 - spot) * 0.5)[None]


def test_predict_and_select(nodes):
    (predictor,) = nodes("SaliencyPredictorLoader", "classic (needs no file)")
    places = ((0.3, 0.7), (0.3, 0.3), (0.7, 0.3))
    images = torch.cat([picture(90, 120, *place) for place in places])
    maps, heat = nodes("PredictSaliency", predictor, images)
    assert maps.shape == images.shape[:3] and heat.shape == images.shape
    for one, (y, x) in zip(maps, places, strict=True):
        row, column = divmod(int(one.argmax()), 120)
        assert abs(row / 90 - y) < 0.1 and abs(column / 120 - x) < 0.1 and one.max() == 1
    assert heat[0, 27, 84, 0] > heat[0, 80, 10, 0] and heat[0, 80, 10, 2] > heat[0, 27, 84, 2]
    target = disc(45, 60, 0.3, 0.3)
    for metric in ("cc", "sim", "kl", "attention share"):
        best, chosen, indices, table = nodes("SelectBySaliency", images, maps, target, 2, metric)
        assert torch.equal(best[0], images[1]) and torch.equal(chosen[0], maps[1]) and len(best) == 2
        assert indices.startswith("1, ") and table.startswith(f"1. image 1: {metric} ")
    with pytest.raises(LimelightError, match="found 2 maps for 3 images"):
        nodes("SelectBySaliency", images, maps[:2], target)
    with pytest.raises(LimelightError, match="image: found values that are not numbers"):
        nodes("PredictSaliency", predictor, images * math.nan)
    with pytest.raises(LimelightError, match="in the folder models/saliency, and it is not there"):
        nodes("SaliencyPredictorLoader", "UNISAL")


def test_a_file_in_the_models_folder(nodes):
    import folder_paths
    from saliency_weights import unisal_state

    (folder,) = map(Path, folder_paths.get_folder_paths("saliency"))
    assert folder == Path(folder_paths.models_dir) / "saliency"
    folder.mkdir()
    torch.save(unisal_state(), folder / "weights_best.pth")
    (predictor,) = nodes("SaliencyPredictorLoader", "UNISAL", "DHF1K")
    assert predictor.network.domain == "DHF1K"
    maps, _ = nodes("PredictSaliency", predictor, picture(64, 64, 0.4, 0.4), predictor_scale=0.3)
    assert maps.shape == (1, 64, 64) and maps.max() == 1


def test_scores_beside_their_baselines(nodes):
    target = torch.from_numpy(saliency_maps.blur(disc(60, 80, 0.3, 0.25).numpy(), 5.0))
    found, table, cc = nodes("SaliencyScore", target, target)
    mean = json.loads(found)["mean"]
    assert cc == pytest.approx(1) and mean["sim"]["value"] == pytest.approx(1)
    assert mean["kl"]["value"] == pytest.approx(0, abs=1e-6) and mean["kl"]["centre_bias"] > 1
    for name in ("cc", "sim", "nss", "auc_judd", "auc_borji", "sauc", "information_gain"):
        row = mean[name]
        assert row["value"] > max(row["centre_bias"], row["shuffled"]), name
    assert mean["information_gain"]["centre_bias"] == pytest.approx(0, abs=1e-6)
    assert all(name in table for name in mean)
    middle = torch.from_numpy(saliency_maps.blur(disc(60, 80, 0.5, 0.5).numpy(), 5.0))
    shuffled = json.loads(nodes("SaliencyScore", middle, middle)[0])["mean"]["cc"]["shuffled"]
    assert shuffled > 0.95  # in the middle nothing is proved, and the table says so
    both = torch.cat([target, middle])
    two = json.loads(nodes("SaliencyScore", both, both)[0])["images"]
    assert two[0]["cc"]["shuffled"] == pytest.approx(metrics.cc(middle[0].numpy(), target[0].numpy()), abs=1e-6)
    with pytest.raises(LimelightError, match="target: found a flat map"):
        nodes("SaliencyScore", target, torch.ones(1, 60, 80))
    flat = json.loads(nodes("SaliencyScore", torch.ones(1, 60, 80), target)[0])["mean"]
    assert flat["cc"]["value"] == 0 and flat["auc_borji"]["value"] is None


def test_attention_by_region(nodes):
    saliency = torch.zeros(1, 40, 40)
    saliency[:, :20, :20], saliency[:, 20:, 20:] = 0.9, 0.3
    regions = torch.zeros(3, 40, 40)
    regions[0, 20:, 20:], regions[1, :20, :20] = 1, 1
    report, sheet, overview = nodes("AttentionReport", saliency, regions, "logo, product")
    one = json.loads(report)["images"][0]
    logo, product, empty = one["regions"]
    assert (logo["name"], product["name"], empty["name"]) == ("logo", "product", "region 3")
    assert logo["attention_share"] == pytest.approx(0.25, abs=0.01)
    assert product["attention_share"] == pytest.approx(0.75, abs=0.01) and product["lift"] == pytest.approx(3, abs=0.05)
    assert (product["rank"], logo["rank"], empty["rank"], empty["lift"]) == (1, 2, 3, None)
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert [row["name"] for row in rows] == ["logo", "product", "region 3"] and float(rows[1]["rank"]) == 1
    assert overview.shape == (1, 40, 40, 3) and overview.std() > 0
    with pytest.raises(LimelightError, match="names: found 4"):
        nodes("AttentionReport", saliency, regions, "a, b, c, d")
    assert saliency_report.focus(np.ones((8, 8))) == pytest.approx(0)
    point = np.zeros((8, 8))
    point[3, 3] = 1
    assert saliency_report.focus(point) == 1
