"""The nodes that make, read and show highlights, on the host's own classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import document, maskpng

SEPARATE, TOGETHER = "one object of the phrase", "part of one object"


@pytest.fixture(scope="module")
def nodes(host):
    from limelight.nodes import highlight_document, highlight_preview

    return {
        n.__name__.removeprefix("LimelightHighlight"): n for n in highlight_document.NODES + highlight_preview.NODES
    }


def masks(*corners: tuple[int, int], size: int = 8) -> torch.Tensor:
    """A batch of masks, each with a white square of 3x3 whose top left cell is at (row, column)."""
    batch = torch.zeros(len(corners), size, size)
    for one, (row, column) in zip(batch, corners, strict=True):
        one[row : row + 3, column : column + 3] = 1
    return batch


def test_expert_knobs_are_folded_away(nodes):
    for name in ("FromMask", "FromBox"):
        inputs = nodes[name].INPUT_TYPES()
        optional = inputs["optional"]
        assert optional["occurrence"][1]["advanced"] and optional["color"][1]["advanced"]
        assert "advanced" not in inputs["required"]["phrase"][1]


def test_json_text_is_not_taken_for_a_dynamic_prompt(nodes):
    kind, options = nodes["FromJSON"].INPUT_TYPES()["required"]["text"]
    assert kind == "STRING" and options["multiline"] and options["dynamicPrompts"] is False
    document.parse_text(options["default"])


def test_each_mask_is_an_object_or_a_part(nodes):
    batch = masks((0, 0), (4, 4))
    (highlight,) = document.parse(nodes["FromMask"].execute(batch, "dolphins", each_mask_is=SEPARATE)[0]).highlights
    assert [len(instance.shapes) for instance in highlight.instances] == [1, 1]
    (highlight,) = document.parse(nodes["FromMask"].execute(batch, "dolphins", each_mask_is=TOGETHER)[0]).highlights
    (instance,) = highlight.instances
    assert np.array_equal(maskpng.decode(instance.shapes[0].png), batch.amax(0).numpy())


def test_soft_masks_stay_soft_and_out_of_range_values_are_clipped(nodes):
    mask = torch.tensor([[[-3.0, 0.25], [0.5, 7.0]]])
    value = nodes["FromMask"].execute(mask, "cat")[0]
    decoded = maskpng.decode(value["highlights"][0]["instances"][0]["shapes"][0]["png"])
    assert decoded == pytest.approx(np.array([[0, 0.25], [0.5, 1]]), abs=1 / 255)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1), (1, 2, 30), (1, 2000, 3)])
def test_masks_of_any_size(nodes, shape):
    value = nodes["FromMask"].execute(torch.ones(shape), "cat")[0]
    decoded = maskpng.decode(value["highlights"][0]["instances"][0]["shapes"][0]["png"])
    assert decoded.min() == 1 and decoded.shape == tuple(min(side, 1024) for side in shape[-2:])


BAD_MASKS = {
    "empty": (torch.zeros(1, 4, 4), "^mask: found an empty mask .*Paint one"),
    "second empty": (torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]), "^mask 2 of 2: found an empty mask"),
    "NaN": (torch.full((1, 4, 4), float("nan")), "^mask: found values that are not numbers"),
    "an image": (torch.ones(1, 4, 4, 3), r"^mask: found a tensor of shape \(1, 4, 4, 3\); expected a MASK"),
    "nothing": (None, "^mask: found nothing; expected a MASK"),
    "no pixels": (torch.ones(1, 0, 4), r"^mask: found a tensor of shape \(1, 0, 4\)"),
    "a film": (torch.ones(65, 2, 2), "^mask: found a batch of 65 masks; expected at most 64"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_mask(nodes, name):
    mask, message = BAD_MASKS[name]
    with pytest.raises(LimelightError, match=message):
        nodes["FromMask"].execute(mask, "cat")


BAD_WIDGETS = {
    "blank phrase": ({"phrase": " "}, "^phrase: found ' '; expected words of the prompt"),
    "strength": ({"strength": float("nan")}, "^strength: found nan; expected a number from 0 to 10"),
    "occurrence": ({"occurrence": 0}, "^occurrence: found 0; expected a whole number from 1"),
    "color": ({"color": "blue"}, "^color: found 'blue'; expected a colour such as"),
    "zero width": ({"width": 0.0}, "^width: found 0.0; expected a number from 0.01 to 1. Fractions"),
    "pixels": ({"x": 128}, "^x: found 128; expected a number from 0 to 0.99. Fractions of the image are meant"),
    "wrong chain": ({"highlights": {"version": 3, "highlights": []}}, "^version: found 3; expected 1"),
}


@pytest.mark.parametrize("name", BAD_WIDGETS)
def test_bad_widget(nodes, name):
    changes, message = BAD_WIDGETS[name]
    good = {"phrase": "a cat", "x": 0.1, "y": 0.1, "width": 0.5, "height": 0.5}
    with pytest.raises(LimelightError, match=message):
        nodes["FromBox"].execute(**good | changes)


def test_unknown_choice(nodes):
    with pytest.raises(LimelightError, match="^each mask is: found 'both'; expected 'one object"):
        nodes["FromMask"].execute(masks((0, 0)), "cat", each_mask_is="both")


def test_chaining(nodes):
    first = nodes["FromBox"].execute("red circle", 0.1, 0.1, 0.3, 0.3, strength=2.0, color="#00ff00")[0]
    second = nodes["FromMask"].execute(masks((0, 0)), "blue bar", highlights=first)[0]
    text = document.parse(nodes["FromBox"].execute("a cat", 0.8, 0.8, 0.9, 0.9)[0]).to_json()
    third = nodes["FromJSON"].execute(text, highlights=second)[0]
    parsed = document.parse(third).highlights
    assert [highlight.phrase for highlight in parsed] == ["red circle", "blue bar", "a cat"]
    assert (parsed[0].strength, parsed[0].color) == (2.0, "#00ff00")
    assert parsed[2].instances[0].shapes[0].box == (0.8, 0.8, 1.0, 1.0)
    assert len(first["highlights"]) == 1, "the input is not changed"
    with pytest.raises(LimelightError, match=r"^highlights\[3\]\.phrase: 'a cat', occurrence 1, already has"):
        nodes["FromBox"].execute("a cat", 0.1, 0.1, 0.3, 0.3, highlights=third)


def test_slip_in_the_json(nodes):
    # A missing comma: one too many stands at another place for Python 3.13.
    with pytest.raises(LimelightError, match="line 2, column 1"):
        nodes["FromJSON"].execute('{"version": 1\n"highlights": []}')


def test_preview_colours_and_labels(nodes):
    value = nodes["FromBox"].execute("red circle", 0.1, 0.3, 0.3, 0.5, color="#ff0000")[0]
    value = nodes["FromBox"].execute("blue bar", 0.6, 0.3, 0.3, 0.5, color="#0000ff", highlights=value)[0]
    (picture,) = nodes["Preview"].execute(value, width=320, height=160, opacity=0.5)[0]
    assert picture.shape == (160, 320, 3)
    assert picture[80, 80].tolist() == pytest.approx([0.75, 0.25, 0.25], abs=0.01)
    assert picture[80, 240].tolist() == pytest.approx([0.25, 0.25, 0.75], abs=0.01)
    assert picture[80, 160].tolist() == [0.5, 0.5, 0.5]
    assert picture[80, 31].tolist() == pytest.approx([1, 0, 0], abs=0.01), "outline"
    label = picture[34:47, 60:100]
    assert (label[..., 1:] > 0.9).any() and (label[..., 0] > 0.99).float().mean() > 0.5, "white on red above the box"


def test_preview_over_a_batch(nodes):
    value = nodes["FromBox"].execute("cat", 0.1, 0.3, 0.3, 0.5)[0]
    images = torch.rand(3, 96, 64, 4)
    with torch.inference_mode():
        output = nodes["Preview"].execute(value, image=images)
    pictures = output[0]
    assert pictures.shape == (3, 96, 64, 3) and len(output.ui.as_dict()["images"]) == 3
    assert torch.equal(pictures[:, :, 40:], images[:, :, 40:, :3])
    singly = torch.cat([nodes["Preview"].execute(value, image=image[None])[0] for image in images])
    assert torch.equal(pictures, singly)


def test_preview_of_nothing_is_the_image(nodes):
    image = torch.rand(1, 20, 30, 3)
    assert torch.equal(nodes["Preview"].execute({"version": 1, "highlights": []}, image=image)[0], image)


@pytest.mark.parametrize("phrase", ["über", "猫", "a" * 300, "line\nbreak"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_preview_of_any_phrase_on_any_size(nodes, phrase, size):
    value = nodes["FromBox"].execute(phrase, 0.1, 0.3, 0.3, 0.5)[0]
    assert nodes["Preview"].execute(value, image=torch.rand(1, *size, 3))[0].shape == (1, *size, 3)


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.ones(4, 4, 3), r"^image: found a tensor of shape \(4, 4, 3\); expected an IMAGE"),
        (torch.ones(1, 4, 4, 2), r"^image: found a tensor of shape \(1, 4, 4, 2\)"),
        ("text", "^image: found 'text'"),
    ],
)
def test_bad_image(nodes, image, message):
    with pytest.raises(LimelightError, match=message):
        nodes["Preview"].execute({"version": 1, "highlights": []}, image=image)


def test_bad_canvas(nodes):
    with pytest.raises(LimelightError, match="^height: found 0; expected a whole number from 16 to 4096"):
        nodes["Preview"].execute({"version": 1, "highlights": []}, height=0)
