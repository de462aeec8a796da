"""Crops, saliency maps, objects, edges, regions and captions, as the programs that prepare training data make them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from saliency_weights import eml_states, unisal_state
from test_prepare import SIDE, run, write_pictures

from limelight.guidance.errors import LimelightError
from limelight.guidance.local import edges
from limelight.guidance.saliency.maps import blur
from limelight.models.classic_saliency import ClassicSaliency
from limelight.training import captions, crops, prepare_local_control, prepare_saliency, prepare_salient_object
from limelight.training.samples import samples


@pytest.fixture
def data(tmp_path) -> Path:
    return write_pictures(tmp_path, 7)


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        ((512, 512), [0]),
        ((682, 512), [0, 170]),  # 640x480: 170 are left over, at least half of 256
        ((639, 512), [0]),
        ((768, 512), [0, 256]),
        ((512, 910), [0, 256, 398]),  # 16:9
        ((1024, 512), [0, 256, 512]),
    ],
)
def test_squares_are_gazefusions(size, starts):
    found = crops.squares(*size)
    assert [box[0] if size[0] >= size[1] else box[1] for box in found] == starts
    assert all(right - left == bottom - top == 512 for left, top, right, bottom in found)
    assert all(right <= size[0] and bottom <= size[1] for _, _, right, bottom in found)


def test_pictures_are_resized_as_torchvision_does():
    for size, expected in (((640, 480), (682, 512)), ((333, 500), (512, 768)), ((90, 90), (512, 512))):
        assert crops.with_short_side(Image.new("RGB", size), 512).size == expected


@pytest.mark.parametrize("side", (16, 25))
def test_a_crop_around_an_object_keeps_its_share(side):
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(60):
        mask = np.zeros((rng.integers(side, 50), rng.integers(side, 70)), np.uint8)
        y, x = rng.integers(0, mask.shape[0] - 6), rng.integers(0, mask.shape[1] - 6)
        mask[y : y + rng.integers(3, 30), x : x + rng.integers(3, 30)] = 255
        (left, top, right, bottom), kept = crops.around(mask, side, 0.8, rng)
        part = mask[top:bottom, left:right]
        assert part.shape == (side, side) and kept == pytest.approx(part.sum() / mask.sum())
        best = max(
            mask[i : i + side, j : j + side].sum()
            for i in range(mask.shape[0] - side + 1)
            for j in range(mask.shape[1] - side + 1)
        )
        assert kept >= 0.8 or part.sum() == best
        whole += kept >= 0.8
    assert 20 < whole


def test_any_place_is_taken_where_no_share_is_asked():
    places = [crops.around(np.eye(20, 30), 8, 0.0, np.random.default_rng(seed))[0] for seed in range(300)]
    assert {box[0] for box in places} == set(range(23)) and {box[1] for box in places} == set(range(13))


@pytest.mark.parametrize("batch", (2, 64))
def test_maps_are_the_predictors_and_no_batch_is_dropped(data, batch):
    folder = run(prepare_saliency, data, "out", "--batch", batch, "--image_format", "png", "--shard", 5)
    made = list(samples(folder, ["saliency"]))
    assert len(made) == 3 * 1 + 2 * 2 + 2 * 3  # squares of 1:1, 3:2, 1:2
    for one in made:
        image = torch.from_numpy(np.array(one["image"]))[None] / 255
        predicted = ClassicSaliency().predict(image)[0].numpy()
        assert np.abs(np.asarray(one["saliency"]) - 255 * predicted).max() <= 1


def test_learned_predictors_take_part(data):
    torch.save(unisal_state(), data / "unisal.pth")
    folder = run(prepare_saliency, data, "out", "--predictor", data / "unisal.pth", "--count", 2)
    network = prepare_saliency.predictor(str(data / "unisal.pth"))
    peaks = [one["saliency"].getextrema()[1] for one in samples(folder, ["saliency"])]
    assert not network.low_accuracy and peaks == [255] * 4  # a density, its peak at 1


def test_published_maps_are_smoothed_and_stretched(data):
    kept = run(prepare_saliency, data, "kept", "--image_format", "png")
    stretched = run(prepare_saliency, data, "published", "--image_format", "png", "--maps", "published")
    for ours, theirs in zip(samples(kept, ["saliency"]), samples(stretched, ["saliency"]), strict=True):
        assert theirs["saliency"].getextrema() == (0, 255)
        smooth = blur(np.asarray(ours["saliency"]) / 255, 10 * SIDE / 512)
        expected = (smooth - smooth.min()) / (smooth.max() - smooth.min())
        assert np.abs(np.asarray(theirs["saliency"]) / 255 - expected).max() < 0.02


def test_maps_that_say_nothing_are_none_and_smooth_ones_are_not_smoothed_again():
    assert prepare_saliency.finished(np.full((8, 8), 0.4), True, False) is None
    assert prepare_saliency.finished(np.full((8, 8), np.nan), False, False) is None
    ramp = np.linspace(0.2, 0.6, 64, dtype=np.float32).reshape(8, 8)
    assert prepare_saliency.finished(ramp, True, True) == pytest.approx((ramp - 0.2) / 0.4, abs=1e-6)
    assert np.array_equal(prepare_saliency.finished(ramp * 2, False, False), (ramp * 2).clip(0, 1))


def test_predictors_are_chosen_by_name_or_file(tmp_path):
    for name, state in eml_states().items():
        torch.save(state, tmp_path / name)
    assert prepare_saliency.predictor(str(tmp_path / "res_places.pth")).label == "EML-Net"
    assert "signature" in prepare_saliency.predictor("signature").label
    with pytest.raises(LimelightError, match="--predictor unisal.pth: there is no such file.*weights_best.pth"):
        prepare_saliency.predictor("unisal.pth")


def test_objects_are_white_and_kept(data):
    folder = run(prepare_salient_object, data, "out", "--image_format", "png", "--crops", 3)
    made = list(samples(folder, ["mask"]))
    assert len(made) == 21 and len({one["image"].tobytes() for one in made}) > 14
    for one in made:
        mask, image = np.asarray(one["mask"]), np.asarray(one["image"])
        assert image[mask > 250][:, 0].mean() > 240 > 150 > image[mask < 5][:, 0].mean()  # the discs are red
    whole = run(prepare_salient_object, data, "any", "--keep", 0, "--least", 0, "--crops", 8)
    areas = [np.asarray(one["mask"]).mean() for one in samples(whole, ["mask"])]
    assert min(areas) < 0.8 * min(np.asarray(one["mask"]).mean() for one in made)  # the published way loses objects


def test_masks_of_all_kinds_and_those_that_cannot_be_used(data, capsys):
    masks = sorted((data / "masks").rglob("*.gif"))
    first = Image.open(masks[0]).convert("L")
    clear = Image.new("RGB", first.size)
    clear.putalpha(first)
    clear.save(masks[0].with_suffix(".png")), masks[0].unlink()
    one = Image.open(masks[1]).convert("L")
    one.resize((2 * one.width, 2 * one.height)).point(lambda value: value > 127 and 1).save(
        masks[1].with_suffix(".bmp")
    )
    masks[1].unlink()
    Image.new("L", (SIDE, SIDE // 2)).save(masks[2])
    Image.new("L", Image.open(masks[3]).size).save(masks[3])
    masks[4].unlink()
    masks[5].write_bytes(b"no mask")
    turned = Image.open(masks[6]).convert("L").point(lambda value: 255 - value)
    turned.save(masks[6])
    folder = run(prepare_salient_object, data, "out", "--image_format", "png")
    made = list(samples(folder, ["mask"]))
    assert len(made) == 2
    for sample in made:
        mask, image = np.asarray(sample["mask"]), np.asarray(sample["image"])
        assert image[mask > 250][:, 0].mean() > 240 and mask.max() == 255
    told = (folder / ".limelight" / "problems.txt").read_text()
    for what in ("of another aspect", "empty mask", "no mask of that name", "mask cannot be read", "--invert_masks"):
        assert told.count(what) == 1, told
    inverted = run(prepare_salient_object, data, "inverted", "--invert_masks")
    assert "disc 5" in {one["text"] for one in samples(inverted, ["mask"])}  # the last by name


def test_an_object_that_fits_no_square_is_left_out(data):
    for path in (data / "masks").rglob("*.gif"):
        stripe = Image.new("L", Image.open(path).size)
        stripe.paste(255, (stripe.width // 3, 2, stripe.width * 2 // 3, stripe.height - 2))
        stripe.save(path)
    folder = run(prepare_salient_object, data, "out")
    told = (folder / ".limelight" / "problems.txt").read_text().splitlines()
    assert len(told) == 2 and all("object does not fit" in line and "5" in line for line in told)  # those of 1:2
    assert len(list(samples(folder, ["mask"]))) == 5


def test_masks_are_white_where_there_is_an_object():
    soft = Image.linear_gradient("L").resize((16, 16))
    assert np.array_equal(prepare_salient_object.object_mask(soft.convert("RGB")), soft)
    assert np.array_equal(prepare_salient_object.object_mask(soft.convert("P")), soft.convert("P").convert("L"))
    classes = Image.fromarray(np.array([[0, 1], [0, 2]], np.uint8)).convert("P")
    classes.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # as PASCAL VOC's
    assert np.array_equal(prepare_salient_object.object_mask(classes), [[0, 255], [0, 255]])
    white_first = Image.fromarray(np.array([[0, 1], [0, 1]], np.uint8)).convert("P")
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    assert np.array_equal(prepare_salient_object.object_mask(white_first), [[255, 0], [255, 0]])
    ones = Image.fromarray(np.array([[0, 1]], np.uint8))
    assert np.array_equal(prepare_salient_object.object_mask(ones), [[0, 255]])


@pytest.mark.parametrize("kind", ("canny", "soft"))
def test_hints_are_the_edges_of_the_crop(data, kind):
    folder = run(prepare_local_control, data, "out", "--edges", kind, "--image_format", "png")
    made = list(samples(folder, ["hint"]))
    assert len(made) == 7
    for one in made:
        image = np.asarray(one["image"], np.float32) / 255
        expected = edges.canny(image) if kind == "canny" else edges.soft(image)
        assert np.abs(np.asarray(one["hint"]) / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_regions_come_from_masks_and_label_maps(data):
    folder = run(prepare_local_control, data, "masks-out", "--masks", data / "masks", "--image_format", "png")
    for one in samples(folder, ["hint", "mask"]):
        assert np.asarray(one["image"])[np.asarray(one["mask"]) > 250][:, 0].mean() > 240
    for path in (data / "masks").rglob("*.gif"):
        labels = np.where(np.asarray(Image.open(path).convert("L")) > 127, 7, 0).astype(np.uint8)
        labels[:4], labels[-4:] = 255, 3
        Image.fromarray(labels).save(path.with_suffix(".png")), path.unlink()
    drawn = run(prepare_local_control, data, "labels-out", "--masks", data / "masks", "--labels", "--seed", 1)
    regions = [np.asarray(one["mask"]) for one in samples(drawn, ["mask"])]
    assert len(regions) == 7 and all(set(np.unique(region)) == {0, 255} for region in regions)
    stripes = [bool((region[:4] == 0).all() and (region[-1] == 255).all()) for region in regions]
    assert any(stripes) and not all(stripes)  # class 3 or class 7


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    captions.add_arguments(parser)
    return parser.parse_args(list(words))


def asked(folder: Path, *words: str) -> list[str]:
    caption = captions.captioner(options(*words), folder, "cpu")
    paths = ("a/one.png", "b/two.png", "b/three.jpg")
    return caption([{"path": Path(path), "image": Image.new("RGB", (40, 30), "red")} for path in paths])


def test_captions_from_tables_of_all_kinds(tmp_path):
    tables = {
        "metadata.jsonl": '{"file_name": "a/one.png", "text": "first"}\n{"file_name": "two.png", "text": "second"}\n',
        "prompts.json": '{"filename": "one.png", "prompt": "first"}\n{"filename": "b/two.png", "prompt": "second"}\n',
        "captions.csv": 'file_name,caption\n./a/one.png,first\nb/two.png,"second"\n',
        "plain.json": '{"a/one.png": "first", "two.png": "second"}',
        "coco.json": json.dumps(
            {
                "images": [{"id": 5, "file_name": "one.png"}, {"id": 7, "file_name": "two.png"}],
                "annotations": [
                    {"image_id": i, "caption": text} for i, text in ((7, "second"), (5, "first"), (7, "x"))
                ],
            }
        ),
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
        assert asked(tmp_path, "--captions", str(tmp_path / name)) == ["first", "second", ""], name
    (tmp_path / "odd.csv").write_text("name,words\na,b\n")
    with pytest.raises(LimelightError, match="found the columns name, words; expected one of file_name"):
        asked(tmp_path, "--captions", str(tmp_path / "odd.csv"))
    with pytest.raises(LimelightError, match="nowhere.json: cannot be read"):
        asked(tmp_path, "--captions", str(tmp_path / "nowhere.json"))


def test_captions_from_text_files(tmp_path):
    for name, text in (("a/one.txt", "first\n"), ("b/two.png.txt", "second")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [text.strip() for text in asked(tmp_path)] == ["first", "second", ""]
    assert asked(tmp_path, "--no_captions") == ["", "", ""]


def test_captions_from_a_model(data, tmp_path):
    """A small random BLIP says the same as through transformers alone."""
    from limelight.tools.torchvision_ops import define_missing_operators

    define_missing_operators()
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    part = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 16, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "encoder_hidden_size": 16}
    config = BlipConfig(
        text_config=part | ids | {"vocab_size": len(tokenizer), "num_hidden_layers": 1},
        vision_config=part | {"image_size": 32, "patch_size": 8, "num_hidden_layers": 1},
        projection_dim=16,
        image_text_hidden_size=16,
        initializer_range=1.0,
    )
    torch.manual_seed(1)
    network = BlipForConditionalGeneration(config).eval()
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    network.save_pretrained(tmp_path / "blip"), processor.save_pretrained(tmp_path / "blip")
    folder = run(prepare_local_control, data, "out", "--captioner", tmp_path / "blip", "--image_format", "png")
    made = list(samples(folder, ["hint"]))
    assert len(made) == 7
    for one in made:
        pixels = processor(images=one["image"], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            ids = network.generate(pixel_values=pixels, max_new_tokens=20, do_sample=False)
        assert one["text"] == " ".join(processor.decode(ids[0], skip_special_tokens=True).split())
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimelightError, match="--captioner .*empty: cannot be loaded"):
        captions.model(str(tmp_path / "empty"), "cpu", 5, "")
