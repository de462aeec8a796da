"""The small graph that the help page of Expansion Guard shows; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import Graph, Place, mask, node

PROMPT = "a red circle and a blue bar on a white background"


def painted(name: str, model: str, at: tuple[int, int], sampler: Place = None) -> Graph:
    """The run with a model, and a preview of what it paints."""
    settings = {"seed": 5, "steps": 25, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given = {"positive": ("fill", 0), "negative": ("fill", 1), "latent_image": ("fill", 2)}
    return {
        f"sample {name}": node("KSampler", sampler, model=(model, 0), **given, **settings),
        f"image {name}": node("VAEDecode", None, samples=(f"sample {name}", 0), vae=("load", 2)),
        name: node("PreviewImage", at, (210, 280), name, images=(f"image {name}", 0)),
    }


GRAPHS: dict[str, Graph] = {
    "LimelightExpansionGuard": {
        "load": node("ShapeworldInpaintLoader", (0, 0), title="Load Checkpoint"),
        "subject": mask((0, 60), (210, 330)),
        "colour": node("EmptyImage", None, width=128, height=128, batch_size=1, color=0xD72D2D),
        "hole": node("InvertMask", None, mask=("subject", 0)),
        "text": node("CLIPTextEncode", None, clip=("load", 1), text=PROMPT),
        "none": node("CLIPTextEncode", None, clip=("load", 1), text=""),
        "fill": node(
            "InpaintModelConditioning",
            None,
            positive=("text", 0),
            negative=("none", 0),
            vae=("load", 2),
            pixels=("colour", 0),
            mask=("hole", 0),
            noise_mask=True,
        ),
        "here": node("LimelightExpansionGuard", (240, 0), (290, 0), model=("load", 0), subject_mask=("subject", 0)),
        **painted("with", "here", (560, 0)),
        **painted("without", "load", (800, 0)),
    },
}
