"""The two judges of the evaluation, from files on this machine: a segmentation network and CLIP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..guidance.regions.voc import CLASSES
from ..tools.console import StepFailed
from ..tools.torchvision_ops import define_missing_operators

SEGMENTER_WHERE = """\
A segmenter of VOC's 21 classes is either a TorchScript file, (1, 3, H, W) normalised RGB -> (1, 21, H, W), such as

    import torch, torchvision
    model = torchvision.models.segmentation.deeplabv3_resnet101(weights="COCO_WITH_VOC_LABELS_V1").eval()
    torch.jit.script(model).save("deeplab.pt")

or the folder of a transformers model for semantic segmentation, such as google/deeplabv3_mobilenet_v2_1.0_513."""
CLIP_WHERE = "CLIP: the folder of openai/clip-vit-large-patch14 (the published evaluation's) from Hugging Face."

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SAME = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "television": "tvmonitor",
    "tv": "tvmonitor",
}


class Segmenter:
    """``Segmenter(path)(image, (width, height))`` -> VOC ids, (height, width) uint8."""

    def __init__(self, path: Path):
        import torch

        self.device, self.statistics = "cpu", IMAGENET
        if path.is_dir():
            define_missing_operators()
            from transformers import AutoModelForSemanticSegmentation

            self.network = _loaded(AutoModelForSemanticSegmentation, path, SEGMENTER_WHERE)
            self.statistics = _statistics(path, IMAGENET)
            self.ids = _voc_ids(self.network.config.id2label, path)
        elif path.is_file():
            try:
                self.network = torch.jit.load(str(path), map_location="cpu")
            except RuntimeError as error:
                raise StepFailed(f"--segmenter {path}: not a TorchScript file ({error}).\n{SEGMENTER_WHERE}") from None
            self.ids = np.arange(len(CLASSES), dtype=np.uint8)
        else:
            raise StepFailed(f"--segmenter {path}: there is no such file or folder.\n{SEGMENTER_WHERE}")
        self.network.eval()

    def to(self, device: str) -> None:
        """Where to compute from now on."""
        self.device = device
        self.network.to(device)

    def __call__(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            result = self.network(_tensor(image, self.statistics).to(self.device))
            scores = _scores(result)
            if scores.ndim != 4 or scores.shape[1] != len(self.ids):
                raise StepFailed(
                    f"--segmenter: found an output of shape {tuple(scores.shape)}; expected (1, {len(self.ids)}, H, W)."
                    f"\n{SEGMENTER_WHERE}"
                )
            scores = torch.nn.functional.interpolate(scores.float(), size[::-1], mode="bilinear", align_corners=False)
            return self.ids[scores[0].argmax(0).cpu().numpy()]


class Clip:
    """``Clip(folder)(image, text)`` -> cosine of the two embeddings, -1..1."""

    def __init__(self, path: Path):
        if not (path / "config.json").is_file():
            raise StepFailed(f"--clip {path}: there is no model folder (with config.json) here.\n{CLIP_WHERE}")
        define_missing_operators()
        from transformers import AutoTokenizer, CLIPModel

        self.network = _loaded(CLIPModel, path, CLIP_WHERE).eval()
        self.tokenizer = _loaded(AutoTokenizer, path, CLIP_WHERE)
        self.statistics, self.device = _statistics(path, OPENAI), "cpu"

    def to(self, device: str) -> None:
        """Where to compute from now on."""
        self.device = device
        self.network.to(device)

    def __call__(self, image: Image.Image, text: str) -> float:
        import torch

        side = self.network.config.vision_config.image_size
        words = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=self.length).to(self.device)
        with torch.inference_mode():
            pixels = _tensor(_centre(image, side), self.statistics).to(self.device)
            result = self.network(pixel_values=pixels, **words)
            cosine = torch.nn.functional.cosine_similarity(result.image_embeds, result.text_embeds)
        return float(cosine)

    @property
    def length(self) -> int:
        """Tokens that the text encoder reads, start and end included; the rest of a longer text is not seen."""
        return self.network.config.text_config.max_position_embeddings


def _loaded(kind: Any, path: Path, where: str) -> Any:
    try:
        return kind.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise StepFailed(f"{path}: transformers cannot load it as {kind.__name__} ({error}).\n{where}") from None


def _statistics(folder: Path, default: tuple) -> tuple:
    """Mean and standard deviation of the pixels, from the folder's preprocessor_config.json."""
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return tuple(config.get("image_mean", default[0])), tuple(config.get("image_std", default[1]))


def _tensor(image: Image.Image, statistics: tuple) -> Any:
    """RGB -> (1, 3, H, W) float32, normalised."""
    import torch

    mean, deviation = (np.array(part, np.float32) for part in statistics)
    pixels = (np.asarray(image.convert("RGB"), np.float32) / 255 - mean) / deviation
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _centre(image: Image.Image, side: int) -> Image.Image:
    """CLIP's own preparation: the short side to ``side``, bicubic, and the middle square."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _scores(result: Any) -> Any:
    """The logits in what a network gave: a tensor, torchvision's {"out": ...}, or transformers' output."""
    if isinstance(result, dict) and "out" in result:
        return result["out"]
    if hasattr(result, "logits"):
        return result.logits
    return result[0] if isinstance(result, (tuple, list)) else result


def _voc_ids(names: dict[int, str], path: Path) -> np.ndarray:
    """(number of the network's classes,) VOC id of each by name; what VOC has not is background."""
    plain = [re.sub("[^a-z]", "", str(names[index]).lower()) for index in sorted(names)]
    if len(plain) == len(CLASSES) and all(name.startswith("label") for name in plain):
        return np.arange(len(CLASSES), dtype=np.uint8)  # unnamed: VOC's own order
    known = [_SAME.get(name, name) for name in plain]
    if not set(known) & set(CLASSES[1:]):
        raise StepFailed(f"--segmenter {path}: none of its classes is one of PASCAL VOC's.\n{SEGMENTER_WHERE}")
    return np.array([CLASSES.index(name) if name in CLASSES else 0 for name in known], np.uint8)
