"""The parts of the PASCAL-Scribble evaluation: graphs, metrics, and the networks that judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from voc_folder import TEMPLATE, write_clip, write_folder

from limelight.bench.workflow import load_workflow
from limelight.guidance.regions.document import Document
from limelight.tools.console import StepFailed
from limelight.tools.in_process import ROOT
from limelight.tools.torchvision_ops import define_missing_operators
from limelight.training.evaluate_highlight_data import read_items
from limelight.training.evaluate_highlight_graph import api_graph, of_item, set_inputs
from limelight.training.evaluate_highlight_metrics import class_iou, confusion, scribble_ratio
from limelight.training.evaluate_highlight_models import Clip, Segmenter


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, host) -> Path:
    define_missing_operators()
    folder = tmp_path_factory.mktemp("judges") / "clip"
    write_clip(folder, host.path / "comfy" / "sd1_tokenizer")
    return folder


@pytest.fixture(scope="module")
def object_info(core_nodes) -> dict:
    from limelight.nodes import NODES

    info = {name: {"input": node.INPUT_TYPES()} for name, node in core_nodes.items()}
    return info | {node.GET_SCHEMA().node_id: {"input": node.INPUT_TYPES()} for node in NODES}


def test_graph_of_the_example(object_info, tmp_path):
    write_folder(tmp_path / "VOC2012")
    item = read_items(tmp_path / "VOC2012", (192, 128), TEMPLATE, {})[0]
    workflow = load_workflow(ROOT / "workflows" / "highlight_basic.json")
    graph = api_graph(workflow, object_info)
    set_inputs(graph, ["KSampler.cfg=7.5", "CheckpointLoaderSimple.ckpt_name=my model.safetensors"])
    ready = of_item(graph, item.document, item.prompt, 99, (192, 128))
    by_class = {node["class_type"]: node["inputs"] for node in ready.values()}
    assert sorted(node["class_type"] for node in ready.values()) == sorted(
        ["CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "LimelightHighlightFromJSON"]
        + ["LimelightHighlightGuidance", "LimelightHighlightPrompt", "PreviewImage", "VAEDecode"]
    ), "one image, nothing else"
    assert json.loads(by_class["LimelightHighlightFromJSON"]["text"]) == item.document.to_dict()
    assert by_class["LimelightHighlightPrompt"]["text"] == item.prompt and by_class["CLIPTextEncode"]["text"] == ""
    assert by_class["KSampler"]["seed"] == 99 and by_class["KSampler"]["cfg"] == 7.5
    assert by_class["EmptyLatentImage"] == {"width": 192, "height": 128, "batch_size": 1}
    assert by_class["CheckpointLoaderSimple"]["ckpt_name"] == "my model.safetensors"
    assert graph != ready and "evaluated highlights" not in graph
    plain = of_item(api_graph(workflow, object_info, "limelight/plain"), item.document, item.prompt, 1, (64, 64))
    assert "LimelightHighlightGuidance" not in {node["class_type"] for node in plain.values()}


def test_graph_with_bind_and_linked_text():
    """An encoder before Highlight Bind has the same text, here from a third node; a mask source is replaced."""
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["9", 0]}},
        "2": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a cat"}},
        "3": {"class_type": "LimelightHighlightFromMask", "inputs": {"mask": ["8", 0], "highlights": ["4", 0]}},
        "4": {"class_type": "LimelightHighlightFromBox", "inputs": {"phrase": "cat"}},
        "5": {
            "class_type": "LimelightHighlightBind",
            "inputs": {"conditioning": ["1", 0], "clip": ["9", 0], "text": ["2", 0], "highlights": ["3", 0]},
        },
        "6": {"class_type": "RandomNoise", "inputs": {"noise_seed": ["2", 0]}},
        "7": {"class_type": "Sampler", "inputs": {"noise": ["6", 0], "positive": ["5", 0]}},
        "8": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "9": {"class_type": "CLIPLoader", "inputs": {}},
        "10": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }
    ready = of_item(api_graph(graph, {}), Document(), "a dog", 3, (64, 64))
    assert sorted(ready) == ["1", "10", "5", "6", "7", "9", "evaluated highlights"]
    assert ready["1"]["inputs"]["text"] == ready["5"]["inputs"]["text"] == "a dog"
    assert ready["6"]["inputs"]["noise_seed"] == 3
    del graph["5"]["inputs"]["highlights"]
    with pytest.raises(StepFailed, match="no node behind the saved image takes HIGHLIGHTS"):
        api_graph(graph, {})
    with pytest.raises(StepFailed, match="found no SaveImage; expected one"):
        api_graph(graph, {}, "y")
    with pytest.raises(StepFailed, match=r"cannot be used \(ValueError: the host does not know the node types"):
        api_graph({"nodes": [{"type": "Gone", "id": 1}], "links": []}, {})


def test_metrics_by_hand():
    labels = np.array([[0, 0, 3, 3], [255, 3, 5, 5]], np.uint8)
    seen = np.array([[0, 3, 3, 3], [7, 3, 5, 0]], np.uint8)
    iou = class_iou(confusion(labels, seen))
    assert iou[[0, 3, 5]] == pytest.approx([1 / 3, 3 / 4, 1 / 2]) and np.isnan(np.delete(iou, [0, 3, 5])).all()
    twice = class_iou(confusion(labels, seen) + confusion(labels, None))
    assert twice[[0, 3, 5]] == pytest.approx([1 / 5, 3 / 7, 1 / 4]), "an image that failed doubles the truth, hits none"
    elsewhere = class_iou(confusion(labels, np.full_like(seen, 9)))
    assert elsewhere[9] == 0 and np.nanmean(elsewhere) == 0
    first, second = np.zeros((2, 2, 4), bool)
    first[0, 1:], second[1, 3] = True, True
    assert scribble_ratio(seen, {3: first, 5: second}) == pytest.approx((1 + 0) / 2)
    assert scribble_ratio(seen, {3: first | (seen == 0)}) == pytest.approx(3 / 5)
    assert scribble_ratio(None, {3: first}) == 0


def test_clip_reads_the_whole_prompt_as_transformers_does(clip_folder):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 64, 3), np.uint8)).resize((160, 100), Image.Resampling.BICUBIC)
    clip = Clip(clip_folder)
    text = "a photography of a dog, a cat and a sheep"
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    network, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        pixel_values = processor(image, return_tensors="pt")["pixel_values"]
        result = network(pixel_values=pixel_values, **tokenizer(text, return_tensors="pt"))
        expected = float(result.logits_per_image / network.logit_scale.exp())
    assert clip(image, text) == pytest.approx(expected, abs=2e-3)
    assert clip(image, text) != pytest.approx(clip(image, text[:-4]), abs=1e-3)
    assert -1 <= clip(image, "dog " * 200) <= 1


def test_segmenter_from_a_transformers_folder(tmp_path):
    """Classes by their names: another order, other spellings, classes that VOC has not."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    names = ["wall", "tv", "airplane", "potted plant", "dog"]
    sizes = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16]}
    sizes |= {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    config = SegformerConfig(**sizes, decoder_hidden_size=16, id2label=dict(enumerate(names)))
    network = SegformerForSemanticSegmentation(config).eval()
    network.save_pretrained(tmp_path / "segformer")
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "segformer" / "preprocessor_config.json").write_text(json.dumps(statistics))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    seen = Segmenter(tmp_path / "segformer")(image, (48, 32))
    assert seen.shape == (32, 48)
    with torch.inference_mode():
        pixels = torch.from_numpy((np.asarray(image, np.float32) / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
        scores = torch.nn.functional.interpolate(network(pixels).logits, (32, 48), mode="bilinear")
    ids = np.array([0, 20, 1, 16, 12])
    assert np.array_equal(seen, ids[scores[0].argmax(0).numpy()]) and len(np.unique(seen)) > 1
    config.id2label = {0: "wall", 1: "sky"}
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "other")
    with pytest.raises(StepFailed, match="none of its classes is one of PASCAL VOC's"):
        Segmenter(tmp_path / "other")
