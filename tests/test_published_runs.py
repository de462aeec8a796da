"""The published methods in runs of the host's sampler, on small random UNets."""

from __future__ import annotations

import pytest
import torch
from gligen_weights import gligen_of, random_gligen
from guided_runs import BAR, CIRCLE, conditioning, noise, prepared, sample, untouched
from published_maps import random_maps, random_self_maps, scene_of

from limelight.guidance.attention.architectures import unet
from limelight.guidance.attention.method import percent_of_step
from limelight.guidance.attention.published import METHODS, attach_published
from limelight.guidance.attention.published.base import coarse_blocks, coarse_map
from limelight.guidance.attention.published.highlight import ScribbleDiffusion, first_of_finest
from limelight.guidance.attention.published.refocusing import grounding_refocusing
from limelight.guidance.attention.published.refocusing_methods import AttentionRefocusing
from limelight.guidance.attention.published.regions import boxes
from limelight.guidance.attention.published.tradiffusion import TraDiffusion, distance_to_trace
from limelight.guidance.attention.seen import Seen
from limelight.guidance.attention.step import attach
from limelight.guidance.errors import LimelightError
from limelight.guidance.prompts.binding import KEY

LINE = {"type": "stroke", "points": [[0.1, 0.2], [0.9, 0.2]], "width": 0.1}


def highlighted() -> list:
    """A box, and a phrase of two tokens with two objects: a stroke and a box."""
    positive = conditioning(CIRCLE, BAR)
    positive[0][1][KEY]["highlights"][1]["instances"].insert(0, {"shapes": [LINE]})
    return positive


def looks(model, name: str, x: torch.Tensor, percent: float, count: int = 2) -> list:
    """Losses, wanted and gradient of the first looks of a step."""
    from limelight.guidance.attention.probe import Probe, differentiable_model

    run = prepared(model, highlighted(), x)
    probe = Probe(run.guider.inner_model.diffusion_model, run.scenes, METHODS[name]())
    with torch.inference_mode(), differentiable_model(run.guider, [scene.cond for scene in run.scenes]):
        return [
            probe.look(run.guider, x.clone(), run.sigma.clone(), run.options, percent, iteration)
            for iteration in range(count)
        ]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_the_latent_and_leaves_nothing_behind(tiny_sd15, name) -> None:
    positive = highlighted()
    plain = sample(tiny_sd15, positive, steps=4)
    before = untouched(tiny_sd15)
    guided = attach_published(tiny_sd15, name)
    moved = sample(guided, positive, steps=4)
    assert moved.isfinite().all() and not moved.equal(plain)
    assert moved.equal(sample(guided, positive, steps=4))  # a run begins anew
    assert sample(attach_published(tiny_sd15, name, 0.0), positive, steps=4).equal(plain)
    assert untouched(tiny_sd15) == before


def test_propagation_changes_what_scribble_diffusion_does(tiny_sd15) -> None:
    """Off by default, as in the public configuration; from step 5 on."""
    grown, plain = (
        sample(attach(tiny_sd15, ScribbleDiffusion(propagate)), highlighted(), steps=10) for propagate in (True, False)
    )
    assert plain.equal(sample(attach(tiny_sd15, ScribbleDiffusion()), highlighted(), steps=10))
    assert grown.isfinite().all() and not grown.equal(plain)
    modulated = sample(attach_published(tiny_sd15, "scribble-diffusion"), highlighted(), steps=10)
    assert modulated.isfinite().all() and not modulated.equal(plain)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_sees_what_its_samples_see_alone(tiny_sd15, name) -> None:
    x = 5 * noise(2, 4, 12, 20)
    for percent in (0.0, 0.14):
        both = looks(tiny_sd15, name, x, percent)
        for k in range(2):
            alone = looks(tiny_sd15, name, x[k : k + 1], percent)
            for one, other in zip(both, alone, strict=True):
                torch.testing.assert_close(one.losses[k : k + 1], other.losses, rtol=1e-3, atol=1e-5, equal_nan=True)
                assert one.wanted[k].equal(other.wanted[0])
                if other.gradient is not None:
                    got = one.gradient[k : k + 1]
                    assert (got - other.gradient).norm() <= 1e-2 * other.gradient.norm()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [(11, 17), (24, 8)])
def test_odd_sizes(tiny_sd15, name, size) -> None:
    x = noise(1, 4, *size)
    moved = sample(attach_published(tiny_sd15, name), highlighted(), x=x, steps=2)
    assert moved.isfinite().all() and not moved.equal(sample(tiny_sd15, highlighted(), x=x, steps=2))


def test_layers_of_stable_diffusion_1(make_unet) -> None:
    network = make_unet("SD15").model.diffusion_model
    keys = {name: [b.key[:2] for b in method().layout(network, 64, 64)] for name, method in METHODS.items()}
    sixteen = [("input", 7), ("input", 8), ("output", 3), ("output", 4), ("output", 5)]
    assert keys["boxdiff"] == keys["attend-and-excite"] == keys["attention-refocusing"] == sixteen
    assert keys["scribble-diffusion"] == sixteen
    assert keys["layout-guidance"] == keys["tradiffusion"] == [("middle", 0), *sixteen[2:]]
    assert len(keys["highlight-guided-diffusion"]) == 16
    assert {b.grid for b in coarse_blocks(network, 64, 96)} == {(16, 24)}
    assert first_of_finest(network) == (6, 9)
    assert METHODS["highlight-guided-diffusion"]().feature_blocks(network) == (6, 9)


def test_self_attention_that_is_too_large_is_an_error(make_unet) -> None:
    network = make_unet("SDXL").model.diffusion_model
    assert first_of_finest(network) == (3, 6)
    assert {b.grid for b in coarse_blocks(network, 128, 128)} == {(32, 32)}
    for name in ("attention-refocusing", "attention-refocusing-sar", "highlight-guided-diffusion"):
        with pytest.raises(LimelightError, match="40x40 cells.*[Cc]hoose"):
            METHODS[name]().self_layout(network, 160, 160)
        assert METHODS[name]().self_layout(network, 64, 64)
    for name in ("attention-refocusing-car", "scribble-diffusion"):
        assert METHODS[name]().self_layout(network, 160, 160) == []


def test_the_gated_term_counts_while_gligen_is_on() -> None:
    scene = scene_of(((2, 3), (0, 0, 0.5, 0.5)), ((5,), (0.5, 0.5, 1, 1)))
    cross = {("middle", 0, 0): random_maps(16, 16)}
    own = {("middle", 0, 0): random_self_maps(16, 16)}
    gated = [torch.rand(2, 3, side**2 + 30, side**2 + 30, dtype=torch.float64).softmax(-1) for side in (8, 16, 16)]
    method = AttentionRefocusing()

    def total(step: int, grounding: list) -> torch.Tensor:
        seen = Seen(cross=cross, self_=own, grounding=grounding)
        return method.losses(seen, scene, percent_of_step(step))

    regions = boxes(scene.targets(16, 16))
    term = grounding_refocusing((gated[1] + gated[2]) / 2, regions, 16, 16)
    torch.testing.assert_close(total(6, gated) - total(6, []), 3 * 3 * term)  # scale 3, weight 3
    assert total(15, gated).equal(total(15, []))


def test_attention_refocusing_sees_gligen(tiny_sd15) -> None:
    seen_by = []

    class Watched(AttentionRefocusing):
        def terms(self, seen, scene, step):
            seen_by.append([maps.shape for maps in seen.grounding])
            return super().terms(seen, scene, step)

    patcher = gligen_of(random_gligen(tiny_sd15.model.diffusion_model, 64))
    with torch.inference_mode():
        boxes = [(torch.randn(1, 64), 6, 6, 1, 1)]
    positive = conditioning(CIRCLE, BAR, gligen=("position", patcher, boxes))
    plain = sample(tiny_sd15, positive)
    moved = sample(attach(tiny_sd15, Watched()), positive)
    assert moved.isfinite().all() and not moved.equal(plain)
    assert (1, 4, 16 * 16 + 30, 16 * 16 + 30) in seen_by[0]


def test_the_coarse_map_is_the_mean_of_its_layers() -> None:
    maps = {("input", i, 0): torch.rand(1, side, side + 4, 5) for i, side in enumerate((64, 16, 16, 8))}
    assert coarse_map(maps).equal(torch.stack(list(maps.values())[1:3]).mean(0))


def test_traces_are_the_centre_lines_of_strokes() -> None:
    from limelight.guidance.regions.document import Box, Stroke

    distance = distance_to_trace([Stroke(((0.0, 0.5), (1.0, 0.5)), 0.4)], 40, 60)
    assert distance.shape == (40, 60) and distance.min() == 1
    assert (distance[:, 30] - 1).tolist() == [abs(20 - y) for y in range(40)]
    assert distance_to_trace([Box((0.5, 0.0, 1.0, 1.0))], 40, 60)[7, 20] == 1 + 10
    assert distance_to_trace([Stroke(((1.0, 1.0),), 0.01)], 16, 16)[15, 15] == 1


def test_tradiffusion_sees_its_part_of_an_area(tiny_sd15) -> None:
    positive = conditioning(CIRCLE, BAR, area=(8, 16, 8, 0))  # the lower half: the circle is out of sight
    run = prepared(tiny_sd15, positive, noise(1, 4, 16, 16))
    method = TraDiffusion()
    maps = torch.rand(1, 2, 8, 16, 77).softmax(-1)
    energy = method.energy(maps, run.scenes[0])
    assert [t.phrase for t in run.scenes[0].targets(8, 16, torch.device("cpu"))] == ["blue bar"]
    assert energy.shape == (1, 1) and method._distances.shape == (1, 64, 128)
    assert method._distances[0, 40, 100] == 1 and method._distances[0, 40, 0] > 60


def test_all_blocks_of_a_network_without_attention_is_an_error(make_sd15) -> None:
    bare = make_sd15(
        transformer_depth=[0, 0, 0], transformer_depth_output=[0] * 6, transformer_depth_middle=-1
    ).model.diffusion_model
    assert unet.all_blocks(bare, 16, 16) == []
    for method in METHODS.values():
        with pytest.raises(LimelightError, match="no cross-attention"):
            method().layout(bare, 16, 16)
