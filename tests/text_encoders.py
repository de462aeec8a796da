"""Text encoders of the host's diffusion transformers: its own tokenizers, tiny random networks behind them."""

from __future__ import annotations

import json
import tempfile
from base64 import b64encode
from pathlib import Path

from conftest import TINY_CLIP_G, TINY_CLIP_L, random_weights

COLOURS = ("red", "blue", "turquoise", "off-white", "dark purple")
THINGS = ("circle", "old oak tree", "chiaroscuro portrait", "café table", "7 kites", "cat's bed")
PROMPTS = [
    (f"A photo of {c1} {t1}, and a {c2} {t2} next to it.", f"{c} {t}")
    for number, t1 in enumerate(THINGS)
    for c1 in COLOURS
    for c2, t2 in [(COLOURS[(number + 2) % 5], THINGS[(number + 3) % 6])]
    for c, t in ((c1, t1), (c2, t2))
    if (c1, t1) != (c2, t2)
]
"""More than fifty prompts with a phrase each."""
T5 = {"d_model": 64, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2}
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def make(kind: str, path):
    """A host CLIP of a kind of `MAKERS`. path: of the host."""
    import comfy.sd
    import comfy.supported_models_base

    tokenizer, model, options, data = MAKERS[kind](path)
    target = comfy.supported_models_base.ClipTarget(tokenizer, model)
    clip = comfy.sd.CLIP(target, model_options=options, tokenizer_data=data)
    random_weights(clip.cond_stage_model, seed=1)
    return clip


def _sd3(path):
    # narrow as it is, T5 cannot be joined to CLIP: good for its tokens, not to encode with
    from comfy.text_encoders import sd3_clip

    options = {"clip_l_model_config": TINY_CLIP_L, "clip_g_model_config": TINY_CLIP_G, "t5xxl_model_config": T5}
    return sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(), options, {}


def _sd3_without_t5(path):
    from comfy.text_encoders import sd3_clip

    options = {"clip_l_model_config": TINY_CLIP_L, "clip_g_model_config": TINY_CLIP_G}
    return sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(t5=False), options, {}


def _flux(path):
    from comfy.text_encoders import flux

    return flux.FluxTokenizer, flux.flux_clip(), {"clip_l_model_config": TINY_CLIP_L, "t5xxl_model_config": T5}, {}


def _chroma(path):
    from comfy.text_encoders import pixart_t5

    return pixart_t5.PixArtTokenizer, pixart_t5.pixart_te(), {"t5xxl_model_config": T5}, {}


def _z_image(path):
    from comfy.text_encoders import z_image

    return z_image.ZImageTokenizer, z_image.te(), {"qwen3_4b_model_config": LLAMA}, {}


def _qwen_image(path):
    from comfy import sd1_clip
    from comfy.text_encoders import qwen_image, z_image

    class WithoutEyes(qwen_image.QwenImageTEModel):
        """The host's cropping, without the half a gigabyte that looks at pictures."""

        def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006
            common = {"device": device, "dtype": dtype, "model_options": model_options}
            sd1_clip.SD1ClipModel.__init__(self, name="qwen25_7b", clip_model=z_image.Qwen3_4BModel, **common)

    return qwen_image.QwenImageTokenizer, WithoutEyes, {"qwen25_7b_model_config": LLAMA}, {}


def _lumina(path):
    from comfy.text_encoders import lumina2

    # Gemma's vocabulary comes with its weights; this is another of the same kind, with byte fallback
    vocabulary = (path / "comfy" / "text_encoders" / "t5_pile_tokenizer" / "tokenizer.model").read_bytes()
    data = {"spiece_model": vocabulary}
    return lumina2.LuminaTokenizer, lumina2.te(), {"gemma2_2b_model_config": LLAMA}, data


def _wan(path):
    from comfy.text_encoders import wan

    # UMT5's vocabulary comes with its weights, too
    vocabulary = (path / "comfy" / "text_encoders" / "t5_pile_tokenizer" / "tokenizer.model").read_bytes()
    return (
        wan.WanT5Tokenizer,
        wan.te(),
        {"umt5xxl_model_config": {**T5, "vocab_size": 32128}},
        {"spiece_model": vocabulary},
    )


def _ltxv(path):
    from comfy.text_encoders import lt

    return lt.LTXVT5Tokenizer, lt.ltxv_te(), {"t5xxl_model_config": T5}, {}


def _cosmos(path):
    from comfy.text_encoders import cosmos

    return cosmos.CosmosT5Tokenizer, cosmos.te(), {"t5xxl_model_config": T5}, {}


SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", *"789", "[IMG]", "<pad>"]
WORDS = (" red", " circle", " square", " blue", " user", "ing", " the")


def _flux2(path):
    """Mistral's vocabulary comes with its weights; this is a small one in its format, read by transformers."""
    from comfy.text_encoders import flux

    options = {"mistral3_24b_model_config": {**LLAMA, "num_hidden_layers": 31}}
    original = flux.load_mistral_tokenizer

    class Tokenizer(flux.Flux2Tokenizer):
        """The host's, but for how it calls transformers, which it can no longer do with the newest version."""

        def __init__(self, **kwargs):
            flux.load_mistral_tokenizer = _tekken
            try:
                super().__init__(**kwargs)
            finally:
                flux.load_mistral_tokenizer = original

    return Tokenizer, flux.flux2_te(), options, {}


def _tekken(_) -> dict:
    from tokenizers.processors import TemplateProcessing
    from transformers.integrations.mistral.tokenizer import MistralConverter

    pieces = [bytes([number]) for number in range(256)]
    for word in WORDS:
        pieces += [part for n in range(2, len(word) + 1) if (part := word[:n].encode()) not in pieces]
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "default_vocab_size": len(pieces) + len(SPECIAL),
        "default_num_special_tokens": len(SPECIAL),
    }
    vocabulary = [{"rank": n, "token_bytes": b64encode(piece).decode()} for n, piece in enumerate(pieces)]
    special = [{"rank": n, "token_str": name} for n, name in enumerate(SPECIAL)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tekken.json"
        file.write_text(json.dumps({"config": config, "vocab": vocabulary, "special_tokens": special}))
        tokenizer = MistralConverter(str(file)).converted()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return {"tokenizer_object": tokenizer, "legacy": False}


MAKERS = {
    "sd3": _sd3,
    "sd3 without t5": _sd3_without_t5,
    "flux": _flux,
    "chroma": _chroma,
    "z_image": _z_image,
    "qwen_image": _qwen_image,
    "lumina2": _lumina,
    "flux2": _flux2,
    "wan": _wan,
    "ltxv": _ltxv,
    "cosmos": _cosmos,
}
