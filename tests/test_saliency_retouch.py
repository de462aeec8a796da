"""Attention retouch: shares rise and fall, outside not a bit changes, bounds, batches, sizes, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import retouch as saliency_retouch
from limelight.models.classic_saliency import ClassicSaliency
from limelight.models.saliency import Predictor
from limelight.models.signature_saliency import SignatureSaliency
from limelight.shapeworld.scenes import random_scene, render


@pytest.fixture(scope="module")
def eyes(host):
    return {"classic": Predictor.of(ClassicSaliency()), "signature": Predictor.of(SignatureSaliency())}


@pytest.fixture(scope="module")
def run(host):
    """-> function (image, predictor, ...) -> image, report, table."""
    from limelight.nodes.saliency_retouch import LimelightAttentionRetouch

    def execute(image, predictor, steps=12, **kwargs):
        with torch.inference_mode():
            made, report, table = LimelightAttentionRetouch.execute(image, predictor, steps=steps, **kwargs).result
        return made, json.loads(report)["images"], table

    return execute


@pytest.fixture(scope="module")
def scene():
    """Two equal dull discs on a textured ground: IMAGE (1, 96, 128, 3), and the masks around each, left and right."""
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    image = 0.45 + 0.06 * torch.rand(96, 128, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 3)
    masks = []
    for x in (36, 92):
        far = ((rows - 48).square() + (columns - x).square()).sqrt()
        image = torch.where(far[..., None] < 12, torch.tensor([0.6, 0.42, 0.4]), image)
        masks.append((far < 22).float()[None])
    return image[None], *masks


def test_attention_rises_and_falls(run, scene, eyes):
    """As the guide sees it and as the other predictor does, for both of them; together more than alone."""
    image, left, right = scene
    for guide, judge in (("classic", "signature"), ("signature", "classic")):
        given = {"predictor": eyes[guide], "judge": eyes[judge]}
        for regions in ({"attract": left}, {"suppress": right}, {"attract": left, "suppress": right}):
            made, (report,), table = run(image, **given, **regions)
            for name in regions:
                for who in ("predictor", "judge"):
                    row = report[who][name]
                    assert (row["after"] - row["before"]) * (1 if name == "attract" else -1) > 0.01
                    assert f"image 1, {name}, by the {who}: {100 * row['before']:.1f} %" in table
            assert made.shape == image.shape and made.min() >= 0 and made.max() <= 1


def test_outside_not_a_bit_changes(run, scene, eyes):
    image, left, right = scene
    made, *_ = run(image, eyes["signature"], attract=left, suppress=right)
    outside = torch.maximum(left, right)[0] == 0
    assert torch.equal(made[0][outside], image[0][outside])
    assert (made - image).abs()[0][~outside].max() > 0.05
    step = (made - image).abs().amax(3)[0] * (saliency_retouch.faded(left[:, None], 0.03)[0, 0] < 0.1)
    assert step[left[0] > 0].max() < 0.05  # no seam at the edge


def test_off_is_the_same_picture(run, scene, eyes):
    image, left, _ = scene
    assert torch.equal(run(image, eyes["classic"], strength=0.0, attract=left)[0], image)
    nothing = dict.fromkeys(("exposure", "saturation", "sharpness", "blur"), 0.0)
    assert torch.equal(run(image, eyes["classic"], **nothing, attract=left)[0], image)


@pytest.mark.parametrize("only", ["exposure", "saturation", "sharpness", "blur"])
def test_each_amount_by_itself(run, scene, eyes, only):
    """Changes something, and nothing beyond its bound."""
    image, left, right = scene
    amounts = dict.fromkeys(("exposure", "saturation", "sharpness", "blur"), 0.0) | {only: 0.5}
    made, *_ = run(image, eyes["signature"], **amounts, attract=left, suppress=right)
    assert (made - image).abs().max() > 1e-3
    if only == "exposure":
        bound = 2 ** (0.5 / saliency_retouch.GAMMA)
        ratio = (made / image).clamp_min(1e-3)
        assert ratio.max() <= bound * 1.001 and ratio.min() >= 0.999 / bound
        assert (ratio.amax(3) - ratio.amin(3)).max() < 1e-3
    if only == "saturation":
        luma = torch.tensor(saliency_retouch.LUMA)
        assert ((made * luma).sum(3) - (image * luma).sum(3)).abs().max() < 1e-3


def test_batches_sizes_and_determinism(run, scene, eyes):
    image, left, right = scene
    both = torch.cat([image, image.flip(2)])
    masks = torch.cat([left, right])
    together, reports, _ = run(both, eyes["signature"], attract=masks)
    assert torch.equal(together, run(both, eyes["signature"], attract=masks)[0]) and len(reports) == 2
    for i in range(2):
        alone, *_ = run(both[i : i + 1], eyes["signature"], attract=masks[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)
    large = image.repeat_interleave(5, 1).repeat_interleave(5, 2)
    made, (report,), _ = run(large, eyes["signature"], attract=left, steps=6)
    assert (
        made.shape == large.shape and report["predictor"]["attract"]["after"] > report["predictor"]["attract"]["before"]
    )


def test_on_a_shapeworld_scene(run, eyes):
    """Drawn to one object of a rendered scene; the objects stay where they are."""
    from limelight.shapeworld.reader import read

    picture, _ = render(random_scene(np.random.default_rng(3), [("circle", "red"), ("square", "blue")]))
    image = torch.from_numpy(np.asarray(picture)).float()[None] / 255
    first, second = sorted(read((image[0].numpy() * 255).astype(np.uint8)), key=lambda thing: thing.phrase)
    masks = [torch.from_numpy(thing.mask).float()[None] for thing in (first, second)]
    made, (report,), _ = run(image, eyes["classic"], attract=masks[0], suppress=masks[1], strength=0.6)
    assert report["predictor"]["attract"]["after"] > report["predictor"]["attract"]["before"]
    assert report["predictor"]["suppress"]["after"] < report["predictor"]["suppress"]["before"]
    after = read((made[0].numpy() * 255).round().astype(np.uint8))
    assert sorted(thing.phrase for thing in after) == sorted([first.phrase, second.phrase])


def test_errors(run, scene, eyes):
    image, left, _ = scene
    eye = eyes["signature"]
    for given, match in (
        ({"predictor": 3}, "predictor: found 3; expected one from Load"),
        ({"predictor": eye, "judge": "x"}, "judge: found 'x'"),
        ({"predictor": eye}, "attract: found nothing white, nor in suppress"),
        ({"predictor": eye, "attract": left * 0}, "attract: found nothing white, nor in suppress"),
        ({"predictor": eye, "attract": left.repeat(3, 1, 1)}, "attract: found 3 masks for 1 images"),
        ({"predictor": eye, "attract": left, "exposure": 9.0}, "exposure: found 9"),
    ):
        with pytest.raises(LimelightError, match=match):
            run(image, **given)
    with pytest.raises(LimelightError, match="image: found values that are not numbers"):
        run(image * float("nan"), eye, attract=left)
