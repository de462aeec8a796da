"""Schedules and stop rules of the published methods, at every step of the published runs and sample by sample."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from published_maps import scene_of

from limelight.guidance.attention.method import percent_of_step
from limelight.guidance.attention.published import METHODS
from limelight.guidance.attention.published.attend_and_excite import AttendAndExcite, Refining
from limelight.guidance.attention.published.base import noise_share, step_index
from limelight.guidance.attention.published.boxdiff import BoxDiff
from limelight.guidance.attention.published.highlight import HighlightGuidedDiffusion, ScribbleDiffusion, row_at
from limelight.guidance.attention.published.layout_guidance import BackwardGuidance, LayoutGuidance
from limelight.guidance.attention.published.refocusing_methods import (
    AttentionRefocusing,
    CrossRefocusing,
    SelfRefocusing,
)
from limelight.guidance.attention.published.tradiffusion import TraDiffusion


def planned(method, runs: int = 50) -> list[int]:
    """Updates that each step of a run of so many steps may have."""
    percents = [percent_of_step(i * 50 / runs) for i in range(runs)]
    return [method.iterations(p) if p <= method.end_percent else 0 for p in percents]


def test_steps_own_the_schedule_around_their_timesteps() -> None:
    assert [step_index(percent_of_step(i)) for i in range(50)] == list(range(50))
    assert [step_index(percent_of_step(i + 0.3)) for i in range(49)] == list(range(49))
    assert step_index(0.0) == 0 and step_index(1.0) == 49


def test_noise_share_is_that_of_stable_diffusion() -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bars = np.cumprod(1 - betas)
    for t in (999, 981, 500, 0):
        assert noise_share(1 - t / 999) == pytest.approx(1 - bars[t], rel=1e-9)
    for step, sigma in ((0, 13.1), (10, 4.69), (20, 2.14), (35, 0.78)):  # PLMS, 50 steps
        share = noise_share(percent_of_step(step))
        assert (share / (1 - share)) ** 0.5 == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("made", [AttendAndExcite, BoxDiff])
def test_attend_and_excite_and_boxdiff(made) -> None:
    sizes = 20 * np.sqrt(np.linspace(1.0, 0.5, 50))
    method = made()
    for i in range(50):
        assert method.step_size(percent_of_step(i)) == pytest.approx(sizes[i], rel=1e-12)
    assert planned(method) == [21 if i in (0, 10, 20) else 1 for i in range(25)] + [0] * 25
    assert planned(made(refine=False)) == [1] * 25 + [0] * 25


def test_attention_refocusing() -> None:
    scales = [4] * 5 + [3] * 15 + [1] * 30
    most = [2] * 2 + [6] * 3 + [3] * 5 + [2] * 40
    table = {i: (scales[i], most[i]) for i in range(50) if i < 10 or i in (10, 15, 20, 25, 30, 35)}
    method = AttentionRefocusing()
    for i in range(50):
        assert method.row(percent_of_step(i)) == table.get(i, (0, 0))
        assert method.step_size(percent_of_step(i)) == 1
    assert planned(method) == [table.get(i, (0, 0))[1] for i in range(50)]
    assert sum(planned(method)) == 49
    for made, first in ((CrossRefocusing, [(3, 5), (2, 5)]), (SelfRefocusing, [(4, 5), (3, 5)])):
        rows = [first[0]] * 10 + [first[1]] * 10 + [(1, 1)] * 10 + [(0, 0)] * 20
        assert [made().row(percent_of_step(i)) for i in range(50)] == rows
        assert planned(made()) == [most for _, most in rows]


def test_highlight_guided_diffusion() -> None:
    method = HighlightGuidedDiffusion()
    table = [(3, 10, 5, 5, 5, 5), (2, 5, 3, 3, 3, 3), (1, 1, 1, 2, 2, 2)]
    for i in range(15):
        decay = 0.95 ** (i % 5)
        step, self_, cross, moment, feature, most = (decay * value for value in table[i // 5])
        row, factor = row_at(percent_of_step(i))
        assert method.step_size(percent_of_step(i)) == pytest.approx(step)
        found = [factor * value for value in (row.self_, row.cross, row.moment, row.feature)]
        assert found == pytest.approx([self_, cross, moment, feature])
        assert method.iterations(percent_of_step(i)) == len([n for n in range(10) if n < most])
    assert planned(method) == [5] * 5 + [3] * 5 + [2] * 5 + [0] * 35
    assert planned(ScribbleDiffusion()) == planned(method)
    assert method.modulation.end_percent == method.end_percent


@pytest.mark.parametrize("made", [LayoutGuidance, TraDiffusion])
def test_layout_guidance_and_tradiffusion(made) -> None:
    percents = [i / 50 for i in range(51)]  # timesteps 999 to 0 in 51 steps
    method = made()
    assert [p <= method.end_percent for p in percents] == [True] * 10 + [False] * 41
    assert {method.iterations(p) for p in percents} == {5}
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bars = np.cumprod(1 - betas)
    for p in percents[:10]:
        bar = bars[round(999 * (1 - p))]
        in_k = 30 * (1 - bar) / bar  # 30 sigma^2 on the latents of k-diffusion, which are longer by 1 / sqrt(bar)
        assert method.step_size(p) == pytest.approx(in_k * bar, rel=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [10, 20, 30, 100])
def test_schedules_hold_for_other_numbers_of_steps(name: str, steps: int) -> None:
    """Where the noise is the same, so is the plan: the share of updates a step is that of the published run."""
    method = METHODS[name]()
    published, other = planned(method), planned(method, steps)
    assert sum(other) > 0
    for i, count in enumerate(other):
        exact = i * 50 / steps
        if exact == int(exact):
            assert count == published[int(exact)]


# Stop rules -----------------------------------------------------------------------------------------------------------


def played(method, values: list[list[float]], steps: list[int], feed) -> dict[int, list[list[bool]]]:
    """Runs the loop of the engine. values: what each look of each sample would find next, used up in turn.

    -> by step: whether each sample is updated in each look.
    """
    queues = [list(one) for one in values]
    seen: dict[int, list[list[bool]]] = {}
    for step in steps:
        percent = percent_of_step(step)
        seen[step] = []
        for iteration in range(method.iterations(percent)):
            if not method.continues(percent, iteration):
                break
            now = torch.tensor([queue.pop(0) if len(queue) > 1 else queue[0] for queue in queues])
            feed(method, now)
            losses = method.losses(SimpleNamespace(cross={0: None}, self_={}, grounding=[], features={}), None, percent)
            wanted = method.wanted(losses.detach(), percent, iteration)
            assert wanted.shape == losses.shape and (wanted == wanted[:, :1]).all()
            seen[step].append(wanted[:, 0].tolist())
            if not wanted.any():
                break
    return seen


class Fed(Refining):
    def objectives(self, seen, scene):
        return torch.stack([100 + self.now, self.now], -1), torch.stack([0 * self.now, self.now], -1)


def feed_now(method, now) -> None:
    method.now = now


def test_refinement_goes_on_while_the_objective_before_was_above_its_bound() -> None:
    method = Fed()
    log = []
    percent = percent_of_step(10)
    looks = [[0.4, 0.6, 0.9], [0.4, 0.6, 0.9], [0.4, 0.3, 0.9], [0.4, 0.2, 0.9]] + [[0.4, 0.2, 0.9]] * 30
    for iteration in range(method.iterations(percent)):
        assert method.continues(percent, iteration)
        method.now = torch.tensor(looks[iteration])
        losses = method.losses(None, None, percent)
        wanted = method.wanted(losses, percent, iteration)
        log.append(["-" if not w else "r" if row[0] == 0 else "s" for w, row in zip(wanted[:, 1], losses, strict=True)])
    assert not method.continues(percent, 21)
    first, second, third = ("".join(column) for column in zip(*log, strict=True))
    assert first == "s" + "-" * 20
    assert second == "rrrs" + "-" * 17  # 0.6 and 0.6 are above the bound of 0.5; 0.3 is still updated
    assert third == "r" * 20 + "s"
    method = Fed(refine=False)
    method.now = torch.tensor([0.9])
    assert method.continues(percent, 0) and method.losses(None, None, percent)[0, 0] > 100


class Energies(BackwardGuidance):
    def losses(self, seen, scene, percent):
        return torch.stack([self.now / 2, self.now / 2], -1)


def test_layout_guidance_never_returns_to_a_satisfied_sample() -> None:
    values = [[0.5, 0.4, 0.1, 0.9], [0.3, 0.9, 0.9, 0.9, 0.9, 0.9, 0.15, 0.9]]
    found = played(Energies(), values, [0, 1, 2], feed_now)
    first = [one[0] for step in found.values() for one in step]
    second = [one[1] for step in found.values() for one in step]
    assert first == [True] * 3 + [False] * 4  # the look that finds 0.1 still makes its update
    assert second == [True] * 7  # and with both satisfied there are no more looks
    assert found[2] == []


class Terms(AttentionRefocusing):
    def terms(self, seen, scene, step):
        self._smallest = self.now[:, 1]
        return self.now[:, :1]


def test_attention_refocusing_leaves_a_step_by_what_the_look_before_found() -> None:
    """Values: (L, attention inside the worst box); the loss is s L."""
    low, weak = (1.0, 0.1), (1.0, 0.3)
    found = played(Terms(), [[low], [weak], [(0.02, 0.1)], [low, weak, low]], [3, 5, 10, 12, 15], feed_now)
    counts = {step: torch.tensor(looks).sum(0).tolist() if looks else None for step, looks in found.items()}
    assert counts[3] == [6, 1, 1, 2]  # 4 x 0.02 is below 0.1
    assert counts[5] == [3, 1, 1, 3]  # every step begins anew
    assert counts[10] == counts[15] == [2, 1, 2, 2]  # no bound on the loss from step 10 on
    assert counts[12] is None


def test_highlight_guidance_freezes_a_sample_for_good() -> None:
    class Totals(HighlightGuidedDiffusion):
        def losses(self, seen, scene, percent):
            return torch.stack([self.now / 2, self.now / 2], -1)

    found = played(Totals(), [[3, 2, 0.4, 9], [0.5, 9], [2.0]], [0, 1], feed_now)
    columns = torch.tensor(found[0] + found[1]).T.tolist()
    assert columns[0] == [True, True] + [False] * 8
    assert columns[1] == [False] * 10  # published: an endless loop
    assert columns[2] == [True] * 10
    alone = played(Totals(), [[0.5, 9]], [0, 1], feed_now)
    assert alone == {0: [[False]], 1: []}


def test_strokes_grow_once_for_every_published_step() -> None:
    scene = scene_of(((2,), (0.2, 0.2, 0.6, 0.3)), latent=(16, 16))
    drawn = scene.targets(16, 16)[0].instances[None] > 0
    generator = torch.Generator().manual_seed(0)
    looks = (2 * torch.randn(1, 256, 256, generator=generator)).softmax(-1)

    def cells(steps: list[int]) -> int:
        method, last = HighlightGuidedDiffusion(), None
        for step in steps:
            percent = percent_of_step(step)
            for iteration in range(2):
                assert method.continues(percent, iteration)
                assert method.affinity == (5 <= step < 15 and iteration == 0 and step != last)
                seen = SimpleNamespace(affinity={(16, 16): looks} if method.affinity else {})
                method._let_grow(drawn, seen, step_index(percent))
            last = step
        return int((drawn if method._strokes is None else method._strokes).sum())

    assert cells(list(range(5))) == int(drawn.sum())
    assert cells(list(range(8))) == cells([0, 3, 7]) > int(drawn.sum())  # fewer steps: as many rounds
    assert cells([4, 7, 7]) == cells([4, 7])
