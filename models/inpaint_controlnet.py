"""ControlNets that see what an inpainting UNet sees: nine channels, noisy latent 4 | mask 1 | latent of the image
without what is to be painted 4 (Eshratifar et al., "Salient Object-Aware Background Generation using Text-Guided
Diffusion Models", CVPRW 2024, and the ControlNet that was published with it)."""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import torch

from ..guidance.errors import LimelightError

CHANNELS = 9
INPAINTING = ("mask", "masked_image")  # what the host's inpainting UNets ask for, in the order of their channels
FAMILIES = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # by width of the text


class InpaintControlNet(comfy.controlnet.ControlNet):
    """A ControlNet of the host whose network gets mask and masked latent after the noisy latent.

    They are those of the base model where it is an inpainting UNet: the very tensors that the UNet gets in the same
    call, so that areas and batches agree. Otherwise they are its own (`with_picture`), the whole picture as for the
    hint. All else is the host's.
    """

    context_dim: int | None = None
    picture: tuple[torch.Tensor, torch.Tensor] | None = None
    _inputs: torch.Tensor | None = None  # own mask and latent as the network wants them, during a run
    _base_inpaints = False
    model_sampling_current: Any  # the host's

    @classmethod
    def of(cls, control: comfy.controlnet.ControlNet, context_dim: int | None = None) -> InpaintControlNet:
        """The host's ControlNet around a network with nine channels, as one of this class."""
        made = cls.__new__(cls)
        made.__dict__.update(vars(control))  # all that the host's class holds, in any of its versions
        made.context_dim = context_dim
        return made

    def copy(self) -> InpaintControlNet:
        made = self.of(super().copy(), self.context_dim)
        made.picture = self.picture
        return made

    def with_picture(self, mask: torch.Tensor, latent: torch.Tensor) -> InpaintControlNet:
        """A copy with mask (B, 1, h, w), 1 = paint, and latent (B, 4, h, w) as the VAE returns it, for base models that
        are no inpainting models."""
        made = self.copy()
        made.picture = mask, latent
        return made

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Raises LimelightError if the base model cannot be used; this is before the first step."""
        super().pre_run(model, percent_to_timestep_function)
        width = model.model_config.unet_config.get("context_dim")
        if self.context_dim is not None and width != self.context_dim:
            raise LimelightError(
                f"control_net: it was made for {_family(self.context_dim)}, and the model is of {_family(width)}. Load "
                "a checkpoint and a ControlNet that belong together."
            )
        self._base_inpaints = tuple(model.concat_keys) == INPAINTING
        if self._base_inpaints:
            return
        if self.picture is None:
            raise LimelightError(
                "control_net: it needs the mask and the masked image of an inpainting model, and the model is none. "
                "Load an inpainting checkpoint (its UNet has 9 input channels), or apply the ControlNet with Salient "
                "Background, which gives it both."
            )
        mask, latent = self.picture
        self._inputs = torch.cat([mask.to(latent), model.process_latent_in(latent)], 1)

    def cleanup(self) -> None:
        self._inputs = None
        super().cleanup()

    def get_control(
        self, x_noisy: torch.Tensor, t: Any, cond: dict, batched_number: int, *rest: Any, **more: Any
    ) -> Any:
        """The host's, with a longer input."""
        sampling = self.model_sampling_current
        if self._base_inpaints:
            concat = cond["c_concat"]
        else:
            concat = _fitted(self._inputs, x_noisy)
            concat = comfy.controlnet.broadcast_image_to(concat, x_noisy.shape[0], batched_number)
            concat = concat.expand(x_noisy.shape[0], -1, -1, -1)
        self.model_sampling_current = _Longer(sampling, concat)
        try:
            return super().get_control(x_noisy, t, cond, batched_number, *rest, **more)
        finally:
            self.model_sampling_current = sampling


def _family(width: int | None) -> str:
    return "another kind" if width is None else FAMILIES.get(width, f"a kind whose text is {width} wide")


class _Longer:
    """The host's model sampling, whose input of the network goes on with more channels."""

    def __init__(self, sampling: Any, concat: torch.Tensor) -> None:
        self.sampling, self.concat = sampling, concat

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampling, name)

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        scaled = self.sampling.calculate_input(sigma, noise)
        return torch.cat([scaled, self.concat.to(scaled)], 1)


def _fitted(inputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(B, 5, h, w) at the size of x. Raises LimelightError for another shape: nothing is cropped or squeezed."""
    (height, width), (wanted_height, wanted_width) = inputs.shape[-2:], x.shape[-2:]
    if (height, width) == (wanted_height, wanted_width):
        return inputs
    if abs(height * wanted_width - width * wanted_height) > max(height, width, wanted_height, wanted_width):
        raise LimelightError(
            f"latent_image: found {wanted_width * 8} x {wanted_height * 8} pixels, and the mask of the ControlNet is "
            f"{width * 8} x {height * 8}. Use the latent of Salient Background, and masks in place of areas for "
            "regional prompts."
        )
    scaled = torch.nn.functional.interpolate(inputs, (wanted_height, wanted_width), mode="bilinear")
    return torch.cat([scaled[:, :1].round(), scaled[:, 1:]], 1)
