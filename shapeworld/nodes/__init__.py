"""Development-only ComfyUI nodes: load shapeworld as an ordinary MODEL, CLIP and VAE of the host.

A custom-node folder by itself (the host sees it as ``limelight_shapeworld``): it imports nothing from the pack. The
ControlNets and the adapter that were trained on shapeworld are among those that the host's loaders offer.
"""

from __future__ import annotations

import json
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "shapeworld.safetensors"
INPAINT = WEIGHTS.with_stem("shapeworld_inpaint")
TRANSFORMER = WEIGHTS.with_stem("shapeworld_transformer")
END = 49407  # the token at the end of a prompt, and of all padding
CONTROLS = WEIGHTS.parent / "controlnet"


def load(path: Path = WEIGHTS, inpaint: Path | None = None):
    """-> (ModelPatcher, CLIP, VAE), built from the host's own SD1 classes with the sizes in the file's metadata.

    inpaint: the file of what the inpainting UNet (9 channels) has of its own; the rest is that of ``path``.
    """
    state, sizes = read(path)
    if inpaint is not None:
        own, changed = read(inpaint)
        state, sizes = state | own, sizes | changed
    return load_model(state, sizes["unet"]), load_clip(state, sizes["text"]), load_vae(state, sizes["vae"])


def load_with_transformer(path: Path = WEIGHTS, transformer: Path = TRANSFORMER):
    """-> (ModelPatcher, CLIP, VAE): the diffusion transformer of its own file, the rest that of ``path``. Its prompts
    have no padding, as those of Z-Image have none."""
    (state, sizes), (own, described) = read(path), read(transformer)
    model = load_model(own, described["transformer"], described["sampling"])
    return model, load_clip(state, sizes["text"], padded=False), load_vae(state, sizes["vae"])


def read(path: Path) -> tuple[dict, dict]:
    """-> tensors by key, and the sizes of the networks."""
    import comfy.utils

    state, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    return state, json.loads(metadata["shapeworld"])


def load_model(state: dict, unet_config: dict, sampling: dict | None = None):
    """sampling: the host's settings of the noise schedule, of a transformer that predicts the flow; else a UNet."""
    import comfy.latent_formats
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    device = comfy.model_management.get_torch_device()
    kind = comfy.supported_models.SD15 if sampling is None else comfy.supported_models.ZImage
    config = kind(dict(unet_config))
    config.unet_config = dict(unet_config)  # SD15 forces 8 heads; the file says how many there are
    if sampling is not None:
        config.sampling_settings, config.latent_format = sampling, comfy.latent_formats.SD15()
    dtype = comfy.model_management.unet_dtype(supported_dtypes=list(config.supported_inference_dtypes))
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    model = config.get_model(state, "model.diffusion_model.", device=comfy.model_management.unet_offload_device())
    model.load_model_weights(state, "model.diffusion_model.")
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def load_clip(state: dict, text_config: dict, padded: bool = True):
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base
    import torch

    prefix = "cond_stage_model."
    weights = {"clip_l." + key[len(prefix) :]: state[key] for key in list(state) if key.startswith(prefix)}
    embedding = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
    stored, ids = weights[embedding], state["shapeworld.clip_ids"]
    spread = stored[:1].repeat(49408, 1)  # row 0 stands for every word that shapeworld never saw
    spread[ids] = stored[1:]
    weights[embedding] = spread
    weights["clip_l.transformer.text_projection.weight"] = torch.eye(stored.shape[1], dtype=stored.dtype)

    class Cropped(comfy.sd1_clip.SD1ClipModel):
        """Hands on no padding: what comes before it does not depend on it."""

        def encode_token_weights(self, token_weight_pairs):
            states, *rest = super().encode_token_weights(token_weight_pairs)
            chunks = token_weight_pairs["l"]
            ids = [token for token, *_ in chunks[-1]]
            return states[:, : sum(map(len, chunks[:-1])) + ids.index(END) + 1], *rest

    kind = comfy.sd1_clip.SD1ClipModel if padded else Cropped
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, kind)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": text_config})
    missing, unexpected = clip.load_sd(weights, full_model=True)
    missing = [key for key in missing if not key.endswith("logit_scale")]
    if missing or unexpected:
        raise ValueError(f"shapeworld text encoder: missing {missing}, unexpected {unexpected}")
    return clip


def load_vae(state: dict, vae_config: dict):
    import comfy.sd

    prefix = "first_stage_model."
    weights = {key[len(prefix) :]: state[key] for key in list(state) if key.startswith(prefix)}
    return comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": vae_config, "embed_dim": 4}})


async def comfy_entrypoint():
    import folder_paths
    from comfy_api.latest import ComfyExtension, io

    folder_paths.add_model_folder_path("controlnet", str(CONTROLS))

    class ShapeworldLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="ShapeworldLoader",
                display_name="Load Shapeworld (development)",
                category="limelight/development",
                description="A tiny SD1-kind model of coloured shapes at 128 x 128, to try and measure Limelight with.",
                outputs=[
                    io.Model.Output(tooltip="The UNet (epsilon prediction, SD1 schedule)."),
                    io.Clip.Output(tooltip="The text encoder, with the SD1 tokenizer."),
                    io.Vae.Output(tooltip="The autoencoder, 8x."),
                ],
            )

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(*load())

    class ShapeworldInpaintLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="ShapeworldInpaintLoader",
                display_name="Load Shapeworld for Inpainting (development)",
                category="limelight/development",
                description="Shapeworld with a UNet that fills holes, of the kind of Stable Diffusion's inpainting "
                "models: for InpaintModelConditioning.",
                outputs=[
                    io.Model.Output(tooltip="The UNet: 9 channels, noisy latent, mask, latent of the masked picture."),
                    io.Clip.Output(tooltip="The text encoder, with the SD1 tokenizer."),
                    io.Vae.Output(tooltip="The autoencoder, 8x."),
                ],
            )

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(*load(inpaint=INPAINT))

    class ShapeworldTransformerLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="ShapeworldTransformerLoader",
                display_name="Load Shapeworld Transformer (development)",
                category="limelight/development",
                description="Shapeworld with a diffusion transformer of the Z-Image kind in place of the UNet.",
                outputs=[
                    io.Model.Output(tooltip="The transformer (rectified flow)."),
                    io.Clip.Output(tooltip="The text encoder, with the SD1 tokenizer and without padding."),
                    io.Vae.Output(tooltip="The autoencoder, 8x, 4 channels."),
                ],
            )

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(*load_with_transformer())

    class Extension(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [ShapeworldLoader, ShapeworldInpaintLoader, ShapeworldTransformerLoader]

    return Extension()
