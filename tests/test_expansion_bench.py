"""What the expansion table measures, on rendered scenes whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limelight.bench.expansion import Case, cases, score, summary
from limelight.shapeworld.scenes import Scene, Thing, render

SUBJECT, BAR = Thing("circle", "red", 0.4, 0.5, 0.15), Thing("bar", "blue", 0.75, 0.8, 0.2, 0.12, 0.3)
CASE = Case(SUBJECT, "white", "blue bar", "gray")


def scored(*things: Thing, background: str = "gray") -> dict[str, float]:
    """The scores of a picture of these things."""
    mask = render(Scene((SUBJECT,), "white"))[1][0] > 0.5
    return score(render(Scene(things, background))[0], CASE, mask)


def test_cases_are_fixed_by_the_seed():
    made = cases(0, 40)
    assert made[:10] == cases(0, 10) and made != cases(1, 40)
    for case in made:
        assert case.old != case.background
        assert case.subject.colour not in case.other
        assert case.subject.phrase in case.caption and case.other in case.caption


def test_a_subject_that_stays_has_not_grown():
    found = scored(SUBJECT, BAR)
    assert found["relative"] == found["expansion"] == found["detached"] == 0
    assert found["prompt_satisfied"] == 1


def test_growth_is_measured_beyond_the_band():
    found = scored(replace(SUBJECT, size=0.25), BAR)
    exact = (0.25**2 - (0.15 + 3 / 128) ** 2) / 0.15**2
    assert found["relative"] == pytest.approx(exact, rel=0.05)
    assert found["expansion"] == pytest.approx(exact * np.pi * 0.15**2, rel=0.05)


def test_another_object_of_the_subject_s_colour_counts_only_if_it_touches():
    apart = scored(SUBJECT, replace(BAR, colour="red"))
    assert apart["relative"] == 0 and apart["detached"] > 0.5
    assert scored(SUBJECT, Thing("square", "red", 0.6, 0.5, 0.1))["relative"] > 0.3


def test_the_prompt_asks_for_a_background_and_an_object():
    assert scored(SUBJECT, BAR, background="black")["prompt_satisfied"] == 0.5
    assert scored(SUBJECT)["prompt_satisfied"] == 0.5
    assert scored(SUBJECT, background="black")["prompt_satisfied"] == 0


def test_rows():
    def picture(relative: float, satisfied: float) -> dict[str, float]:
        return {"relative": relative, "expansion": relative / 10, "prompt_satisfied": satisfied}

    found = [{"plain": [picture(0.4, 1.0), picture(0.05, 0.5)], "guard": [picture(0.2, 1.0), picture(0.0, 1.0)]}]
    assert summary("plain", found) == pytest.approx(
        {"row": "plain", "expansion": 0.0225, "relative": 0.225, "prompt_satisfied": 0.75, "grown": 0.5}
    )
    assert summary("best-of-8", found)["prompt_satisfied"] == 0.5
    assert summary("guard+best-of-8", found)["relative"] == 0


def test_one_subject_in_little(host, monkeypatch, tmp_path):
    from limelight.bench import expansion, sampling

    monkeypatch.setattr(sampling, "STEPS", 3)
    monkeypatch.setattr(expansion, "SEEDS", 3)
    painter = expansion.Painter(sampling.load_world(inpaint=expansion.INPAINT))
    pictures = {method: painter.paint(CASE, 0, method)[0] for method in expansion.METHODS}
    assert all(len(made) == 3 and made.dtype == np.uint8 for made in pictures.values())
    assert len({made.tobytes() for made in pictures.values()}) == len(expansion.METHODS)
    assert set(expansion.subject_scores(painter, 0, CASE, 0, ["controlnet"], tmp_path)) == {"controlnet"}
