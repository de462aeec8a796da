"""Saliency predictors on disk: where they are published, which file is which, and that every weight is in its place."""

from __future__ import annotations

from pathlib import Path, PurePath

import torch
from torch import nn

from ..guidance.errors import LimelightError
from . import files
from .classic_saliency import ClassicSaliency
from .emlnet import EMLNet
from .saliency import SaliencyNetwork
from .signature_saliency import SignatureSaliency
from .unisal import VIDEO_KEYS, Unisal

INPUT = "predictor"  # the node's input, for errors
CLASSIC, SIGNATURE = "classic (needs no file)", "image signature (needs no file)"
WEIGHTLESS = {CLASSIC: ClassicSaliency, SIGNATURE: SignatureSaliency}
UNISAL, ADS, EMLNET = "UNISAL", "MediaAttention-Ads", "EML-Net"
ENDINGS = (".pth", ".pt", ".safetensors", ".ckpt", ".bin")
EML_STEMS = ("res_imagenet", "res_places", "res_decoder")
STEMS = {UNISAL: ("unisal_salicon", "unisal", "weights_best"), ADS: ("ads-v1",), EMLNET: EML_STEMS[-1:]}
PUBLISHED = {
    UNISAL: "https://github.com/rdroste/unisal as training_runs/pretrained_unisal/weights_best.pth, or "
    "https://huggingface.co/pranikz/MediaAttention as unisal_salicon.pth (15 MB, Apache-2.0)",
    ADS: "https://huggingface.co/pranikz/MediaAttention-Ads as ads-v1.pth (15 MB, Apache-2.0)",
    EMLNET: "https://github.com/SenJia/EML-NET-Saliency, whose page links to three files on Google Drive: "
    "res_imagenet.pth, res_places.pth (94 MB each), res_decoder.pth (no licence is stated)",
}


def build(path: Path, domain: str = "SALICON") -> SaliencyNetwork:
    """-> the network that the file holds, its weights filled in.

    domain: UNISAL's. Of EML-Net's three files any one will do, if the other two lie beside it. The weights are ordinary
    tensors, not those of inference mode, so that gradients can go through. Raises LimelightError.
    """
    with torch.inference_mode(False):
        state = _read(path)
        if "smoothing_salicon.weight" in state:
            network = Unisal(domain)
            fill(network, {k: v for k, v in state.items() if not k.startswith(VIDEO_KEYS)}, path.name, UNISAL)
            return network
        if "layer4.0.conv1.weight" in state and "output4.0.weight" in state or "img_model.0.0.weight" in state:
            network = EMLNet()
            for part, each in zip((network.imagenet, network.places, network.decoder), _eml_files(path), strict=True):
                fill(part, _read(each), each.name, EMLNET)
            return network
    some = ", ".join(list(state)[:3])
    raise LimelightError(
        f"{INPUT}: {path.name} is of no predictor that is known here (its weights begin with {some}). Expected a file "
        f"of UNISAL, MediaAttention-Ads or EML-Net. UNISAL is at {PUBLISHED[UNISAL]}."
    )


def find(choice: str, names: list[str]) -> str:
    """The file among `names` (of the folders of models) that the choice means. Raises LimelightError for none."""
    if choice in names:
        return choice
    stems = STEMS.get(choice, ())
    for stem in stems:
        for name in names:
            if PurePath(name).stem.lower() == stem and PurePath(name).suffix.lower() in ENDINGS:
                return name
    if not stems:
        raise LimelightError(
            f"{INPUT}: found {choice!r}, which is no file in models/saliency any more. Put it back, or choose another."
        )
    wanted = [f"{stem}.pth" for stem in (EML_STEMS if choice == EMLNET else stems)]
    listed = f"{', '.join(wanted)} (all of them)" if choice == EMLNET else " or ".join(wanted)
    raise LimelightError(
        f"{INPUT}: {choice} needs {listed} in the folder models/saliency, and it is not there. It is published at "
        f"{PUBLISHED[choice]}. Put it there and press R; '{CLASSIC}' works without a file, less well."
    )


def fill(module: nn.Module, state: dict[str, torch.Tensor], name: str, what: str) -> None:
    """Fills in all weights. Raises LimelightError unless names and shapes are the module's, one to one."""
    # Counters of training steps: no weights, and files of old versions of PyTorch have none.
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    shapes = {key: value.shape for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    problems = [f"{key} is missing" for key in shapes if key not in state]
    problems += [f"{key} is not known" for key in state if key not in shapes]
    for key in shapes.keys() & state.keys():
        if state[key].shape != shapes[key]:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(shapes[key])}")
        elif not state[key].isfinite().all():
            problems.append(f"{key} has values that are not numbers")
    if problems:
        raise LimelightError(
            f"{INPUT}: {name} does not fit {what}: {'; '.join(sorted(problems)[:4])} ({len(problems)} of {len(shapes)} "
            f"weights). Download it again from {PUBLISHED[what]}."
        )
    module.load_state_dict({key: value.clone() for key, value in state.items()}, strict=False)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by name, without the prefix that training on several GPUs puts before each."""
    state = files.mapped(path, INPUT)  # without the host: the programs that prepare training data use it too
    if isinstance(state, dict):  # of a training's checkpoint the weights
        inner = state.get("state_dict", next(iter(state.values())) if len(state) == 1 else None)
        state = inner if isinstance(inner, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()) or not state:
        raise LimelightError(f"{INPUT}: {path.name} holds no weights by name. Download it again.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _eml_files(path: Path) -> list[Path]:
    """EML-Net's three files, beside the one that was chosen."""
    found = []
    for stem in EML_STEMS:
        here = [path.with_name(stem + ending) for ending in ENDINGS if path.with_name(stem + ending).is_file()]
        if not here:
            raise LimelightError(
                f"{INPUT}: EML-Net has three files, and {stem}.pth is not beside {path.name} in {path.parent}. "
                f"Expected {', '.join(f'{each}.pth' for each in EML_STEMS)} there. They are published at "
                f"{PUBLISHED[EMLNET]}."
            )
        found.append(here[0])
    return found
