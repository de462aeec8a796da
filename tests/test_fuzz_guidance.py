"""No setting of the guidance node gives anything but a model or our own error."""

from __future__ import annotations

import math

import pytest

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

anything = st.one_of(
    st.floats(),
    st.integers(-(10**40), 10**40),
    st.floats(-1, 12),
    st.integers(-1, 25),
    st.sampled_from([None, "", "1", "nan", [], {}, True, math.nan, math.inf, -0.0]),
)
SETTINGS = (
    "strength",
    "start_percent",
    "end_percent",
    "iterations",
    "step_size",
    "stop_at",
    "looseness",
    "separation",
    "shape",
)
GOOD = dict.fromkeys(SETTINGS[4:], 0.5) | {"strength": 1.0, "start_percent": 0.0, "end_percent": 0.5, "iterations": 3}


@pytest.fixture(scope="module")
def model(make_sd15):
    return make_sd15()


def test_settings(model):
    from limelight.guidance.errors import LimelightError
    from limelight.nodes.highlight_guidance import LimelightHighlightGuidance

    @hypothesis.settings(max_examples=500, deadline=None)
    @hypothesis.given(st.dictionaries(st.sampled_from(SETTINGS), anything, max_size=3), st.booleans())
    def run(changes, save_memory):
        try:
            result = LimelightHighlightGuidance.execute(model, **{**GOOD, **changes}, save_memory=save_memory)
        except LimelightError as error:
            assert any(str(error).startswith(name) for name in SETTINGS)
        else:
            assert result[0] is not model

    run()
