"""Small helpers for node schemas that keep up with newer hosts."""

from __future__ import annotations

from typing import TypeVar

from comfy_api.latest import io

Highlights = io.Custom("HIGHLIGHTS")
"""Socket type of the region document in its plain form (see `guidance.regions.document`)."""

Attention = io.Custom("LIMELIGHT_ATTENTION")
"""Socket type of what a run showed: a `guidance.attention.recording.Recording`."""

SaliencyPredictor = io.Custom("LIMELIGHT_SALIENCY_PREDICTOR")
"""Socket type of a `models.saliency.Predictor`."""

Display = io.Custom("LIMELIGHT_DISPLAY")
"""Socket type of a `guidance.saliency.display.Display`."""

Placement = io.Custom("LIMELIGHT_PLACEMENT")
"""Socket type of where products lie on their canvases: a list of `guidance.expansion.place.Placement.as_dict`."""

_Input = TypeVar("_Input", bound=io.Input)


def advanced(widget: _Input) -> _Input:
    """Marks a widget as an expert knob, which the front end may fold away. Newer hosts have a field for it."""
    if hasattr(widget, "advanced"):
        widget.advanced = True
    else:
        widget.extra_dict["advanced"] = True
    return widget


def drawn_by(widget: _Input, kind: str) -> _Input:
    """Lets the front-end extension that registered `kind` (see web/) draw a text widget; its value stays a text."""
    widget.extra_dict["widgetType"] = kind
    return widget


def percent(name: str, default: float, tooltip: str, step: float = 0.01) -> io.Float.Input:
    """A place on the noise schedule: 0 is pure noise, 1 the finished image. `guidance.checks.window` checks two."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip)
