"""The text feature of a phrase, as each GLIGEN was trained with it."""

from __future__ import annotations

from typing import Any

import torch

from ..guidance.errors import LimelightError
from ..guidance.prompts.tokens import read_text, tokenize


def phrase_feature(clip: Any, phrase: str) -> torch.Tensor:
    """-> (1, D): what the text encoder says at the end of the phrase.

    SD 1.x (768): CLIP-L's pooled output before its projection, as in the paper. SDXL (2048): the same of CLIP-L and
    the projected one of CLIP-G, side by side: GLIGEN-XL (igligen-xl) was trained with "pooler_output" and
    "text_embeds" of the two encoders as diffusers calls them. SD 2.x (1024): the end token of the last layer but one,
    normalised: diffusers cuts SD 2's encoder there, so that this is its "pooler_output".
    """
    source = "highlight phrase"
    towers = set(read_text(clip, phrase, source))
    tokens = tokenize(clip, phrase, source)
    if towers == {"l"}:
        return clip.encode_from_tokens(tokens, return_pooled="unprojected")[1]
    if towers == {"l", "g"}:
        _, second = clip.encode_from_tokens(tokens, return_pooled=True)  # the host hands out CLIP-G's alone
        first = clip.cond_stage_model.clip_l
        first.set_clip_options({"projected_pooled": False})
        try:
            return torch.cat([first.encode_token_weights(tokens["l"])[1].to(second), second], -1)
        finally:
            first.reset_clip_options()
    if towers == {"h"}:
        whole = clip.clone()
        whole.clip_layer(None)  # of the image's prompt, not of the phrase
        end = [token for token, *_ in tokens["h"][0]].index(clip.tokenizer.clip_h.end_token)
        return whole.encode_from_tokens(tokens)[:, end]
    raise LimelightError(
        f"clip: {type(clip.tokenizer).__name__} ({', '.join(sorted(towers))}) is not supported by GLIGEN. Use the text "
        "encoder of an SD 1.x, SD 2.x or SDXL checkpoint."
    )


def check_width(feature: torch.Tensor, wanted: int) -> None:
    """Raises LimelightError unless a phrase's feature has the width that a GLIGEN reads."""
    kinds = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
    if feature.shape[-1] != wanted:
        raise LimelightError(
            f"clip: its text features are {feature.shape[-1]} wide{_of(kinds, feature.shape[-1])}, and the GLIGEN "
            f"model reads {wanted}{_of(kinds, wanted)}. Load the GLIGEN that was made for your checkpoint's family."
        )


def _of(kinds: dict[int, str], width: int) -> str:
    return f" ({kinds[width]})" if width in kinds else ""
