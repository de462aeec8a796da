"""The nodes of local control: from files and masks to conditionings, and what they refuse."""

from __future__ import annotations

import adapter_weights
import pytest
import torch
from adapter_weights import full, light
from guided_runs import conditioning_for, negative_for, noise
from local_runs import call, entries, run
from safetensors.torch import save_file

from limelight.guidance.errors import LimelightError

IMAGE = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
HALF = torch.zeros(1, 128, 128)
HALF[:, :, :64] = 1


@pytest.fixture(scope="module")
def nodes(host):
    """The nodes by name, with files for their loaders."""
    import folder_paths

    folder = host.base / "models" / "t2i_adapter"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "t2iadapter_canny": full(192),
        "coadapter-depth-x": full(64, seed=2),
        "light_pose": light(),
        "sdxl": full(768),
    }
    for name, state in {**files, "fuser": adapter_weights.fuser()}.items():
        save_file(state, folder / f"{name}.safetensors")
    folder_paths.folder_names_and_paths["controlnet"][0].append(str(folder))
    from limelight.nodes import local_control_apply, local_control_load, local_control_merge

    modules = (local_control_load, local_control_apply, local_control_merge)
    yield {node.__name__: node for module in modules for node in module.NODES}
    folder_paths.folder_names_and_paths["controlnet"][0].remove(str(folder))


def do(node, *args, **kwargs):
    with torch.inference_mode():
        return node.execute(*args, **kwargs).result


@pytest.fixture
def load(nodes):
    return lambda name="t2iadapter_canny", **given: do(nodes["LimelightAdapterLoader"], f"{name}.safetensors", **given)[
        0
    ]


@pytest.fixture
def texts(sd15):
    positive = conditioning_for(sd15)
    return positive, negative_for(positive)


def test_loader(load):
    assert [load(name).task for name in ("t2iadapter_canny", "coadapter-depth-x", "light_pose", "sdxl")] == [
        "canny", "depth", "openpose", "",
    ]  # fmt: skip
    assert load(task="sketch").task == "sketch"
    assert load("sdxl").network.form.xl and not load("light_pose").network.form.xl
    with pytest.raises(LimelightError, match="CoAdapter"):
        load("fuser")
    with pytest.raises(LimelightError, match="task"):
        load(task="nonsense")
    with pytest.raises(LimelightError, match="base_model"):
        load(base_model="nonsense")


def test_apply_is_region_and_apply_controlnet(nodes, load, texts, core_nodes, sd15):
    """One node or two, with the host's own adapter as well, and with ConditioningSetMask in between."""
    import comfy.controlnet

    positive, negative = texts
    settings = {"mask_on": "both", "feather": 8.0, "level_weights": "0.5, 1"}
    theirs = comfy.controlnet.load_t2i_adapter(full(192))
    stock = core_nodes["ControlNetApplyAdvanced"]()
    results = []
    for control in (load(), theirs):
        (regional,) = do(nodes["LimelightControlRegion"], control, HALF, **settings)
        two = stock.apply_controlnet(positive, negative, regional, IMAGE, 0.8, 0.0, 0.9)
        one = do(nodes["LimelightMaskedAdapterApply"], *texts, control, IMAGE, 0.8, 0.0, 0.9, HALF, **settings)
        assert one[0][0][1]["control"] is one[1][0][1]["control"]
        results += [run(sd15, *pair, noise(1, 4, 16, 16)) for pair in (two, one)]
    assert all(torch.equal(each, results[0]) for each in results)
    plain = run(sd15, *texts, noise(1, 4, 16, 16))
    assert not torch.equal(results[0], plain)
    zero = do(nodes["LimelightMaskedAdapterApply"], *texts, load(), IMAGE, 0.0, mask=HALF)
    assert torch.equal(run(sd15, *zero, noise(1, 4, 16, 16)), plain)
    (off,) = do(nodes["LimelightControlRegion"], load(), HALF, strength=0.0)
    off = stock.apply_controlnet(positive, negative, off, IMAGE, 0.8, 0.0, 1.0)
    assert torch.equal(run(sd15, *off, noise(1, 4, 16, 16)), plain)


def test_apply_without_a_mask_is_the_hosts(nodes, load, texts, core_nodes, sd15):
    import comfy.controlnet

    theirs = comfy.controlnet.load_t2i_adapter(full(192))
    stock = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet(*texts, theirs, IMAGE, 0.8, 0.1, 0.7)
    ours = do(nodes["LimelightMaskedAdapterApply"], *texts, load(), IMAGE, 0.8, 0.1, 0.7)
    assert torch.equal(*(run(sd15, *pair, noise(1, 4, 16, 16), 3) for pair in (stock, ours)))


def test_other_controls_stay(nodes, load, texts):
    """A control on the prompt already is not lost, and one after ours neither."""
    apply = nodes["LimelightMaskedAdapterApply"]
    once = do(apply, *texts, load(), IMAGE, mask=HALF)
    twice = do(apply, *once, load("coadapter-depth-x"), IMAGE, mask=1 - HALF)
    assert twice[0][0][1]["control"].previous_controlnet is once[0][0][1]["control"]


@pytest.mark.parametrize(
    ("mask", "settings", "reason"),
    [
        (torch.zeros(1, 8, 8), {}, "empty mask"),
        (torch.full((1, 8, 8), float("nan")), {}, "not numbers"),
        (None, {"blank": 2.0}, "blank"),
        (HALF, {"mask_on": "none"}, "mask_on"),
        (HALF, {"fill": "red"}, "fill"),
        (HALF, {"level_weights": "1, x"}, "level_weights"),
        (HALF, {"level_weights": "1, 1, 1, 1, 1"}, "5 numbers"),
        (HALF, {"curve": "0.5"}, "curve"),
        (HALF, {"curve": "0.5:1, 0.2:0"}, "left to right"),
        (HALF, {"start_percent": 0.8, "end_percent": 0.2}, "start_percent"),
        (torch.ones(1, 64, 128), {}, "same aspect"),
        (torch.ones(3, 64, 64), {"image": torch.rand(2, 64, 64, 3)}, "3 masks for 2 hints"),
        (HALF, {"image": torch.rand(1, 64, 64, 4)}, "transparency"),
    ],
)
def test_refused(nodes, load, texts, mask, settings, reason):
    image = settings.get("image", IMAGE)
    settings = {key: value for key, value in settings.items() if key != "image"}
    with pytest.raises(LimelightError, match=reason):
        do(nodes["LimelightMaskedAdapterApply"], *texts, load(), image, mask=mask, **settings)


def test_no_control(nodes, texts):
    with pytest.raises(LimelightError, match="control_net"):
        do(nodes["LimelightControlRegion"], torch.nn.Linear(1, 1), HALF)
    import comfy.controlnet

    stock = comfy.controlnet.ControlBase()
    foreign = [[[tensor, {**options, "control": stock}] for tensor, options in text] for text in texts]
    with pytest.raises(LimelightError, match="no control of this pack"):
        do(nodes["LimelightRegions"], *foreign)


def test_controls_of_strength_0_leave_nothing_to_merge(nodes, texts, caplog):
    positive, negative, masks, rest = do(nodes["LimelightRegions"], *texts)
    assert all(a[0] is b[0] and a[1] == b[1] for a, b in zip(positive + negative, [*texts[0], *texts[1]], strict=True))
    assert not masks.any() and rest.all()
    assert "nothing to merge" in caplog.text


@pytest.fixture
def two(nodes, load, texts):
    """Prompts with two controls whose regions overlap by half."""
    apply = nodes["LimelightMaskedAdapterApply"]
    third = torch.zeros(1, 128, 128)
    third[:, :, 32:96] = 1
    once = do(apply, *texts, load(), IMAGE, mask=HALF, mask_on="features")
    return do(apply, *once, load("coadapter-depth-x"), IMAGE, mask=third, mask_on="features")


def test_regions(nodes, two, core_nodes, sd15):
    positive, negative, masks, rest = do(nodes["LimelightRegions"], *two, "priority")
    control = positive[0][1]["control"]
    assert control is negative[0][1]["control"] and len(control.parts) == 2 and control.previous_controlnet is None
    assert tuple(masks.shape) == (2, 128, 128) and tuple(rest.shape) == (1, 128, 128)
    assert [float(mask[0].mean()) for mask in (*masks[:, None], rest)] == pytest.approx([0.25, 0.5, 0.25])
    assert torch.equal(masks.sum(0) + rest[0], torch.ones(128, 128))
    x = noise(1, 4, 16, 16)
    assert torch.equal(run(sd15, *do(nodes["LimelightRegions"], *two, "sum")[:2], x), run(sd15, *two, x))
    # the host's masks of conditionings take them
    (with_mask,) = core_nodes["ConditioningSetMask"]().append(positive, masks[:1], "default", 1.0)
    assert not torch.equal(run(sd15, with_mask, negative, x), run(sd15, positive, negative, x))
    with pytest.raises(LimelightError, match="overlap"):
        do(nodes["LimelightRegions"], *two, "nonsense")
    with pytest.raises(LimelightError, match="expected the CONTROL_NET"):
        do(nodes["LimelightControlRegion"], control, HALF)


def test_regions_behind_and_before_other_controls(nodes, load, two):
    """Foreign controls in the chain stay, wherever they are."""
    import comfy.controlnet

    theirs = comfy.controlnet.load_t2i_adapter(full(192, seed=7)).set_cond_hint(IMAGE.movedim(-1, 1), 1.0, (0.0, 1.0))
    theirs.set_previous_controlnet(two[0][0][1]["control"])
    chained = [[[text, {**options, "control": theirs}] for text, options in each] for each in two]
    positive, negative, *_ = do(nodes["LimelightRegions"], *chained, "sum")
    x = noise(1, 4, 16, 16)
    merged = positive[0][1]["control"]
    assert type(merged.previous_controlnet) is comfy.controlnet.T2IAdapter
    found, wanted = entries(call(merged, x)), entries(call(theirs, x))
    assert found.keys() == wanted.keys() and all(torch.allclose(found[k], wanted[k], atol=1e-5) for k in found)


def test_coadapter(nodes, two, sd15):
    x = noise(1, 4, 16, 16)
    fused = do(nodes["LimelightCoAdapter"], *two, "fuser.safetensors")
    off = do(nodes["LimelightCoAdapter"], *two, "fuser.safetensors", 0.0)
    plain = run(sd15, *two, x)
    assert torch.equal(run(sd15, *off, x), plain) and not torch.equal(run(sd15, *fused, x), plain)
    with pytest.raises(LimelightError, match="no fuser"):
        do(nodes["LimelightCoAdapter"], *two, "sdxl.safetensors")
