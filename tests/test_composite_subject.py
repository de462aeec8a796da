"""Composite Subject and Subject Shadow: exact pixels, a clean rim, colours, light and shadow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limelight.bench import composite as bench
from limelight.guidance.errors import LimelightError
from limelight.guidance.expansion import composite, shadow


@pytest.fixture(scope="module")
def nodes(host):
    """-> function (node id, *arguments) -> the outputs of the node."""
    from limelight.nodes import salient_object_finish, salient_object_place

    every = [*salient_object_finish.NODES, *salient_object_place.NODES]
    known = {node.GET_SCHEMA().node_id: node for node in every}

    def run(name: str, *args, **kwargs):
        with torch.inference_mode():
            return known[f"Limelight{name}"].execute(*args, **kwargs).result

    return run


def product(height=90, width=60, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a soft-edged block as the product: IMAGE, MASK."""
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(1, height, width)
    for i, value in enumerate((0.3, 0.7, 1.0)):
        mask[:, 10 + i : 80 - i, 15 + i : 45 - i] = value
    return image, mask


def generated(height=128, width=128, count=1, seed=1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_rim_is_three_times_cleaner_than_a_plain_paste():
    """Soft objects photographed before contrasting backgrounds, against their rendering on the new one."""
    rows = {row["row"]: row for row in bench.rows(50, 0)}
    assert rows["plain"]["rim_error"] > 5 and rows["plain"]["ratio"] == 1
    assert rows["limelight"]["ratio"] > 10 and rows["limelight"]["worst_ratio"] > 3
    assert rows["limelight"]["rim_error"] < rows["blurred-fusion"]["rim_error"]


def test_foreground_keeps_what_is_opaque_and_survives_thin_parts():
    rng = np.random.default_rng(0)
    image = rng.random((64, 64, 3)).astype(np.float32)
    alpha = np.zeros((64, 64), np.float32)
    alpha[20:40, 20:40] = 1
    assert composite.foreground(image, alpha) is image
    alpha[19], alpha[:, 50] = 0.4, 0.6  # a rim, and a hair that is nowhere opaque
    found = composite.foreground(image, alpha)
    assert np.array_equal(found[alpha == 1], image[alpha == 1]) and np.array_equal(found[alpha == 0], image[alpha == 0])
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    # a hair of one colour over another: the mixture goes back to the hair's
    flat = np.where((np.arange(64) == 50)[None, :, None], np.float32(0.6), 0) * np.array([1, 0, 0], np.float32)
    flat = np.broadcast_to(
        flat + 0.4 * (np.arange(64) == 50)[None, :, None] + (np.arange(64) != 50)[None, :, None], (64, 64, 3)
    )
    hair = np.where(np.arange(64) == 50, np.float32(0.6), np.float32(0)) * np.ones((64, 1), np.float32)
    red = composite.foreground(flat.astype(np.float32), hair)[30, 50]
    assert red[0] > 0.9 and red[1] < 0.25  # the photograph has 0.4


def test_interior_is_bit_identical(nodes):
    image, mask = product()
    options = {"width": 128, "height": 128, "margin": 0.0, "anchor": "centre"}
    # at its own pixels on the canvas
    _, placed, placement = nodes("PlaceSubject", image, mask, fit="original pixels", size=100.0, **options)
    made, alpha = nodes("CompositeSubject", generated(), image, mask, placement)
    assert torch.equal(alpha, placed) and alpha[alpha == 1].numel() == 66 * 26
    assert torch.equal(made[alpha == 1], image[mask == 1])
    plain, _ = nodes("CompositeSubject", generated(), image, mask, placement, match=0.0)
    assert torch.equal(plain[alpha == 1], image[mask == 1]) and torch.equal(plain[alpha == 0], generated()[alpha == 0])
    # placed small or large, and brought back to its own pixels
    for size in (20.0, 90.0):
        *_, placement = nodes("PlaceSubject", image, mask, size=size, **options)
        made, alpha = nodes("CompositeSubject", generated(), image, mask, placement, resolution="the subject's")
        assert torch.equal(made[alpha == 1], image[mask == 1]) and alpha.shape == made.shape[:3]
        assert alpha.shape[1] == round(128 / placement[0]["matrix"][0])
    # a larger original than the one that was placed
    double = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    larger = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    made, alpha = nodes("CompositeSubject", generated(), double, larger, placement, resolution="the subject's")
    assert torch.equal(made[alpha == 1], double[larger == 1])
    # and no longer once its light is changed
    dark, alpha = nodes(
        "CompositeSubject", generated() * 0.1, image, mask, placement, resolution="the subject's", harmonise=0.5
    )
    assert (dark[alpha == 1] < image[mask == 1]).float().mean() > 0.99


def test_resampled_subject_is_where_it_was_placed(nodes):
    """Turned and scaled: what can be asked is that it lies as in the placed picture."""
    image, mask = product()
    placed, alpha, placement = nodes("PlaceSubject", image, mask, width=128, height=96, rotation=25.0)
    made, found = nodes("CompositeSubject", torch.full_like(placed, 0.5), image, mask, placement, match=0.0)
    assert torch.equal(found, alpha) and torch.equal(made, placed)
    double = torch.nn.functional.interpolate(placed.movedim(3, 1), scale_factor=2).movedim(1, 3)
    made, found = nodes("CompositeSubject", double, image, mask, placement, match=0.0)
    small = torch.nn.functional.avg_pool2d(found[None], 2)[0]
    assert made.shape == double.shape and (small - alpha).abs().mean() < 0.01


def test_without_placement_the_frame_is_filled(nodes):
    image, mask = product()
    picture = generated(90, 60)
    made, alpha = nodes("CompositeSubject", picture, image, mask, match=0.0)
    assert torch.equal(alpha, mask) and torch.equal(made[mask == 1], image[mask == 1])
    assert torch.equal(made[mask == 0], picture[mask == 0])
    off, _ = nodes("CompositeSubject", picture, image, mask, match=0.0, clean_rim=False)
    expected = image * mask[..., None] + picture * (1 - mask[..., None])
    assert torch.allclose(off, expected) and not torch.equal(off, made)
    whole, _ = nodes("CompositeSubject", picture, image, torch.ones_like(mask))
    assert torch.equal(whole, image)  # white everywhere: nothing of the picture is left
    assert torch.equal(
        nodes("CompositeSubject", picture, image, mask * 0.99999, match=0.0)[0][mask == 1], image[mask == 1]
    )


def test_batch_is_single_runs(nodes):
    pairs = [product(seed=i) for i in range(4)]
    images, masks = (torch.cat(part) for part in zip(*pairs, strict=True))
    masks[1, :40], masks[2, :, :25] = 0, 0
    pictures = generated(count=4)
    _, placed, placements = nodes("PlaceSubject", images, masks, width=128, height=128)
    layers, _ = nodes("SubjectShadow", placed)
    options = {"harmonise": 0.3}
    together, alphas = nodes("CompositeSubject", pictures, images, masks, placements, layers, **options)
    for i in range(4):
        one = slice(i, i + 1)
        assert torch.equal(nodes("SubjectShadow", placed[one])[0], layers[one])
        alone, alpha = nodes(
            "CompositeSubject", pictures[one], images[one], masks[one], placements[one], layers[one], **options
        )
        assert torch.equal(alone, together[one]) and torch.equal(alpha, alphas[one])
    # eight pictures of one product
    many, _ = nodes("CompositeSubject", pictures, images[:1], masks[:1], placements[:1], layers[:1], **options)
    assert torch.equal(many[:1], together[:1]) and len(many) == 4


def test_colour_shift_is_taken_back():
    """The model has made all warmer and flatter; the subject shows by how much."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, (80, 80, 3)).astype(np.float32)
    alpha = np.zeros((80, 80), np.float32)
    alpha[20:60, 20:60] = 1
    shifted = truth * np.array([0.9, 0.95, 0.9], np.float32) + np.array([0.08, 0.0, -0.02], np.float32)
    found = composite.matched(shifted, truth, alpha)
    assert np.abs(found - truth).mean() < 0.05 * np.abs(shifted - truth).mean()
    assert composite.matched(shifted, truth, alpha, 0.0) is shifted
    half = composite.matched(shifted, truth, alpha, 0.5)
    assert 0.3 < np.abs(half - truth).mean() / np.abs(shifted - truth).mean() < 0.7
    # another thing stands there: nothing is taken over
    other = rng.uniform(0.2, 0.8, truth.shape).astype(np.float32)
    assert np.abs(composite.matched(other, truth, alpha) - other).max() < 1e-6
    # an even subject says nothing about contrast, and a far-off level is not believed
    even = np.full_like(truth, 0.9)
    found = composite.matched(np.full_like(truth, 0.2), even, alpha)
    assert found.max() == pytest.approx(0.2 + composite.SHIFT, abs=1e-5)


def test_harmonising_follows_the_light_and_keeps_hue_and_texture():
    rng = np.random.default_rng(0)
    subject = (np.array([0.5, 0.3, 0.2]) * rng.uniform(0.8, 1.2, (96, 96, 1))).astype(np.float32)
    alpha = np.zeros((96, 96), np.float32)
    alpha[30:66, 30:66] = 1
    light = np.broadcast_to(np.linspace(0.1, 0.7, 96, dtype=np.float32)[None, :, None], (96, 96, 3))
    assert composite.harmonised(subject, alpha, light, 0.0) is subject
    found = composite.harmonised(subject, alpha, light, 0.7)
    ratio = found / subject
    inside = ratio[35:61, 35:61]
    assert np.abs(inside - inside[..., :1]).max() < 1e-5  # all channels alike: the hue stays
    assert (np.diff(inside[..., 0], axis=1) > -1e-6).all() and inside[0, -1, 0] > 1.1 * inside[0, 0, 0]
    assert np.abs(np.diff(np.log(inside[..., 0]), axis=1)).max() < 0.06  # smooth: the texture stays
    # a subject that fills all but a corner: its middle takes the light of that corner
    full = np.ones((96, 96), np.float32)
    full[:3, :3] = 0
    lit = composite.harmonised(np.full((96, 96, 3), 0.5, np.float32), full, np.full((96, 96, 3), 0.4, np.float32), 1.0)
    assert np.abs(lit - 0.404).max() < 0.01
    assert ratio.max() <= composite.LIGHT**0.7 + 1e-6 and ratio.min() >= composite.LIGHT**-0.7 - 1e-6


def test_shadow_lies_where_the_light_says(nodes):
    mask = torch.zeros(1, 200, 200)
    mask[:, 40:140, 90:110] = 1
    layer, opacity = nodes("SubjectShadow", mask, contact=0.0, soft=0.5, direction=0.0, length=60.0)
    assert layer.shape == (1, 200, 200, 4) and torch.equal(layer[..., 3], opacity) and not layer[..., :3].any()
    assert opacity.max() <= 0.5
    columns = torch.arange(200.0)

    def middle(found):
        return (found[0].sum(0) * columns).sum() / found.sum()

    assert middle(opacity) > 115
    assert middle(nodes("SubjectShadow", mask, contact=0.0, direction=180.0)[1]) < 85
    assert opacity[0, 120:].sum() > 0.99 * opacity.sum()  # on the floor
    near = nodes("SubjectShadow", mask, contact=0.0, direction=90.0, length=80.0)[1]
    away = nodes("SubjectShadow", mask, contact=0.0, direction=-90.0, length=80.0)[1]
    assert near[0, 142:].sum() > 0.7 * near.sum() and away[0, :140].sum() > 0.7 * away.sum()
    # paler and softer with the distance
    assert near[0, 145, 100] > 1.5 * near[0, 172, 100]
    line = nodes("SubjectShadow", mask, contact=0.8, soft=0.0)[1]
    assert line[0, 140, 100] > 0.7 and line[0, 150].max() < 0.05 and line[0, 140, 60] < 0.05
    assert not nodes("SubjectShadow", mask, contact=0.0, soft=0.0)[1].any()


def test_contact_only_where_it_stands():
    """A table on two legs: dark at the feet, not below the top between them."""
    alpha = np.zeros((120, 120), np.float32)
    alpha[30:50, 20:100], alpha[50:100, 20:28], alpha[50:100, 92:100] = 1, 1, 1
    found = shadow.contact(alpha)
    assert found[100, 24] > 0.8 and found[100, 96] > 0.8 and found[:, 60].max() < 0.05


def test_shadow_lies_under_the_subject(nodes):
    image, mask = product()
    picture = torch.full((1, 128, 128, 3), 0.8)
    _, placed, placement = nodes("PlaceSubject", image, mask, width=128, height=128, fit="original pixels", size=100.0)
    layer, opacity = nodes("SubjectShadow", placed)
    made, alpha = nodes("CompositeSubject", picture, image, mask, placement, layer, match=0.0)
    assert torch.equal(made[alpha == 1], image[mask == 1])
    outside = alpha == 0
    assert torch.allclose(made[outside], (picture * (1 - opacity[..., None]))[outside])


def test_large_pictures(nodes):
    """4096 on a side: no loops over pixels."""
    alpha = torch.zeros(1, 4096, 4096)
    alpha[:, 3000:3400, 2000:2300], alpha[:, 2999, 2000:2300], alpha[:, 3000:3400, 2300] = 1, 0.5, 0.5
    picture = torch.rand(1, 64, 64, 3).repeat(1, 64, 64, 1)
    made, _ = nodes("CompositeSubject", picture, picture.flip(1), alpha, match=0.0)
    assert torch.equal(made[alpha == 1], picture.flip(1)[alpha == 1])


def test_errors(nodes):
    image, mask = product()
    *_, placement = nodes("PlaceSubject", image, mask, width=128, height=128)
    run = lambda *args, **kwargs: nodes("CompositeSubject", *args, **kwargs)  # noqa: E731
    with pytest.raises(LimelightError, match="image: found 128 x 96 pixels, but the subject was placed with 128 x 128"):
        run(generated(96, 128), image, mask, placement)
    with pytest.raises(LimelightError, match="subject: found 90 x 60 pixels, but the subject was placed with 60 x 90"):
        run(generated(), image.transpose(1, 2), mask.transpose(1, 2), placement)
    with pytest.raises(LimelightError, match="image: found 128 x 128 pixels, but the subject was placed with 60 x 90"):
        run(generated(), image, mask)
    with pytest.raises(LimelightError, match="mask: found nothing, and subject has no transparency"):
        run(generated(), image)
    with pytest.raises(LimelightError, match="mask 1 of 1: found an empty one"):
        run(generated(), image, mask * 0)
    with pytest.raises(LimelightError, match="shadow: found an image without transparency"):
        run(generated(), image, mask, placement, generated())
    with pytest.raises(LimelightError, match="placement: found 2 in the batch; expected one, or 3"):
        run(generated(count=3), image, mask, placement * 2)
    with pytest.raises(LimelightError, match="resolution: found 'big'"):
        run(generated(), image, mask, placement, resolution="big")
    with pytest.raises(LimelightError, match="harmonise: found 2"):
        run(generated(), image, mask, placement, harmonise=2.0)
    with pytest.raises(LimelightError, match="image: found values that are not numbers"):
        run(generated() * torch.nan, image, mask, placement)
    both = torch.cat([mask, mask])
    both[1, :50] = 0
    *_, places = nodes("PlaceSubject", image, both, width=128, height=128)
    with pytest.raises(LimelightError, match="the pictures of the batch differ in size"):
        run(generated(), image, both, places, resolution="the subject's")
    with pytest.raises(LimelightError, match="mask 2 of 2: found an empty one"):
        nodes("SubjectShadow", torch.cat([mask, mask * 0]))
    with pytest.raises(LimelightError, match="softness: found 99"):
        nodes("SubjectShadow", mask, softness=99.0)
