"""The small graphs of the help pages about drawing attention while sampling and after it."""

from __future__ import annotations

from .help_graphs import PICTURE, Graph, loader, mask, negative, node

PROMPT = "a red circle and a blue bar on a gray background"

GRAPHS: dict[str, Graph] = {
    "LimelightSaliencyGuidance": {
        "load": loader((0, 0)),
        "eyes": node("LimelightSaliencyPredictorLoader", (0, 60)),
        "mask": mask(None),
        "wish": node("LimelightSaliencyFromMask", (0, 120), mask=("mask", 0), softness=8.0),
        "text": node("CLIPTextEncode", None, clip=("load", 1), text=PROMPT),
        "none": negative(None),
        "size": node("EmptyLatentImage", None, width=128, height=128, batch_size=1),
        "here": node(
            "LimelightSaliencyGuidance",
            (230, 0),
            (310, 0),
            model=("load", 0),
            predictor=("eyes", 0),
            target=("wish", 0),
            vae=("load", 2),
        ),
        "sample": node(
            "KSampler",
            (580, 0),
            model=("here", 0),
            positive=("text", 0),
            negative=("none", 0),
            latent_image=("size", 0),
            seed=7,
            control_after_generate="fixed",
            steps=25,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", (580, 60), samples=("sample", 0), vae=("load", 2)),
        "shown": node("PreviewImage", (780, 0), (210, 280), images=("decode", 0)),
    },
    "LimelightAttentionRetouch": {
        "picture": node("LoadImage", (0, 0), (210, 330), image=PICTURE),
        "eyes": node("LimelightSaliencyPredictorLoader", (0, 390)),
        "mask": mask(None),
        "here": node(
            "LimelightAttentionRetouch",
            (240, 0),
            (300, 0),
            image=("picture", 0),
            predictor=("eyes", 0),
            attract=("mask", 0),
        ),
        "shown": node("PreviewImage", (580, 0), (210, 280), images=("here", 0)),
        "shares": node("PreviewAny", (580, 330), (260, 110), source=("here", 2)),
    },
}
