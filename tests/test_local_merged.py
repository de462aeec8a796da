"""Several regions merged into one control, and CoAdapters fused."""

from __future__ import annotations

import adapter_weights
import pytest
import torch
from adapter_weights import NARROW, full, light
from guided_runs import noise
from local_runs import Watched, adapter, applied, call, close, entries, hint, prompts, region, run, same

from limelight.guidance.errors import LimelightError

pytestmark = pytest.mark.usefixtures("host")

ONE, TWO = full(192), full(64, seed=5)
LEFT = torch.zeros(1, 128, 128)
LEFT[:, :, :80] = 1
RIGHT = torch.zeros(1, 128, 128)
RIGHT[:, :, 48:] = 1


def parts(where: str = "features", masks=(LEFT, RIGHT), states=(ONE, TWO), tasks=("canny", "depth")) -> list:
    return [
        applied(adapter(state, task).with_region(region(mask, where=where)), hint(128, seed=number), 0.5 + number / 4)
        for number, (state, mask, task) in enumerate(zip(states, masks, tasks, strict=True))
    ]


def merged(given: list, policy: str, fusing=None):
    from limelight.guidance.local.merged import MergedControl

    return MergedControl(given, policy, fusing)


def whole() -> list[dict]:
    """What each part would add everywhere."""
    return [entries(call(part, noise(1, 4, 16, 16))) for part in parts(masks=(None, None))]


def strips(value: torch.Tensor) -> list[torch.Tensor]:
    """Left only, both, right only; of levels whose cells do not straddle the edges."""
    unit = value.shape[-1] / 128
    return [value[..., : int(48 * unit)], value[..., int(48 * unit) : int(80 * unit)], value[..., int(80 * unit) :]]


EXPECTED = {
    "sum": lambda a, b: a + b,
    "normalise": lambda a, b: (a + b) / 2,
    "priority": lambda a, b: b,
    "max": lambda a, b: torch.where(a.square().sum(1, True) >= b.square().sum(1, True), a, b),
}


@pytest.mark.parametrize("policy", EXPECTED)
def test_policies(policy):
    found, (one, two) = entries(call(merged(parts(), policy), noise(1, 4, 16, 16))), whole()
    for place in (("input", 2), ("input", 5)):  # 8 and 16 pixels to a cell
        left, both, right = strips(found[place])
        (a, middle_a, _), (_, middle_b, b) = strips(one[place]), strips(two[place])
        assert torch.allclose(left, a, atol=1e-6) and torch.allclose(right, b, atol=1e-6)
        assert torch.allclose(both, EXPECTED[policy](middle_a, middle_b), atol=1e-5)


def test_sum_is_the_chain():
    first, second = parts("both")
    x = noise(2, 4, 16, 16)
    chain = call(second.set_previous_controlnet(first), x, 2)
    assert same(call(merged(parts("both"), "sum"), x, 2), chain)


def test_disjoint_regions_do_not_touch():
    """Also where both have a share of the same coarse cell: nothing of either is lost."""
    masks = (LEFT, 1 - LEFT)
    sums = call(merged(parts(masks=masks), "sum"), noise(1, 4, 16, 16))
    for policy in ("normalise", "priority"):
        assert close(call(merged(parts(masks=masks), policy), noise(1, 4, 16, 16)), sums, 1e-5)


def test_soft_masks_and_three_parts():
    from limelight.guidance.local.merged import settle

    masks = [torch.full((1, 8, 8), value) for value in (0.5, 0.8, 0.4)]
    assert [float(mask.mean()) for mask in settle(masks, "priority")] == pytest.approx([0.5 * 0.12, 0.48, 0.4])
    assert [float(mask.mean()) for mask in settle(masks, "normalise")] == pytest.approx(
        [0.5 / 1.7, 0.8 / 1.7, 0.4 / 1.7]
    )
    low = [mask / 4 for mask in masks]
    assert torch.equal(torch.stack(settle(low, "normalise")), torch.stack(low))
    sizes = settle([torch.ones(1, 4, 4), torch.ones(3, 8, 8)], "normalise")
    assert [tuple(mask.shape) for mask in sizes] == [(3, 8, 8)] * 2 and all((mask == 0.5).all() for mask in sizes)


def test_tools_crop_all_parts_at_once():
    control = merged(parts(masks=(torch.rand(1, 128, 128), RIGHT)), "normalise")
    whole_hint = control.cond_hint_original
    x = noise(1, 4, 8, 8)
    cut = control.copy()
    cut.cond_hint_original = whole_hint[:, :, 64:, 32:96].clone()
    by_crop = call(cut, x)
    control.cond_hint = whole_hint[:, :, 64:, 32:96].clone()
    by_tile = call(control, x)
    by_hand = []
    for part in parts(masks=(torch.ones(1, 128, 128), RIGHT)):
        part.cond_hint_original = None
        by_hand.append(part)
    for part, piece in zip(by_hand, cut.cond_hint_original.split(control.widths, 1), strict=True):
        part.cond_hint_original = piece
    assert same(by_crop, by_tile) and same(by_crop, call(merged(by_hand, "normalise"), x))
    assert not same(by_crop, call(merged(parts(), "normalise"), x))
    control.cond_hint = None
    assert call(control, noise(1, 4, 16, 16))["input"][-3].shape[-1] == 16


def test_networks_run_once():
    control = merged(parts(), "normalise")
    seen = [Watched(part.network) for part in control.parts]
    for _ in range(3):
        call(control, noise(1, 4, 16, 16))
    assert [len(each.hints) for each in seen] == [1, 1]
    assert len(control.get_models()) == 2


def test_time_ranges_and_wrong_models(sd15, sdxl):
    first, second = parts()
    first.timestep_percent_range = (0.0, 0.3)
    control = merged([first, second], "priority")
    to_sigma = sd15.model.model_sampling.percent_to_sigma
    control.pre_run(sd15.model, to_sigma)
    late = call(control, noise(1, 4, 16, 16), sigma=float(to_sigma(0.6)))
    alone = applied(adapter(TWO).with_region(region(RIGHT, where="features")), hint(128, seed=1), 0.75)
    assert same(late, call(alone, noise(1, 4, 16, 16)))
    with pytest.raises(LimelightError):
        merged(parts(), "sum").pre_run(sdxl.model, to_sigma)
    with pytest.raises(LimelightError, match="2, 3 hints"):
        merged([applied(adapter(ONE), hint(64, count=n)) for n in (2, 3)], "sum")


def fusing(strength: float = 1.0, widths=NARROW):
    from limelight.guidance.local.fusing import Fusing
    from limelight.models.fuser import build

    return Fusing(build(adapter_weights.fuser(widths), "test"), strength)


def test_fuser_is_a_transformer_over_level_means():
    """Against torch's own encoder layer."""
    from limelight.models.fuser import TASKS, build

    state = adapter_weights.fuser(layers=2)
    means = {task: [torch.randn(2, width) for width in NARROW] for task in ("canny", "sketch")}
    tokens = torch.cat(
        [
            torch.stack([torch.nn.functional.silu(m) @ state[f"spatial_feat_mapping.{i}.1.weight"].T
                         + state[f"spatial_feat_mapping.{i}.1.bias"] for i, m in enumerate(levels)], 1)
            + state["task_embedding"][TASKS[task]] + state["positional_embedding"]
            for task, levels in means.items()
        ],
        1,
    )  # fmt: skip

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (64,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm(tokens, "ln_pre")
    for i in range(2):
        layer = torch.nn.TransformerEncoderLayer(
            64, 8, 256, 0.0, lambda v: v * torch.sigmoid(1.702 * v), batch_first=True, norm_first=True
        )
        names = {
            "self_attn.": "attn.",
            "linear1": "mlp.c_fc",
            "linear2": "mlp.c_proj",
            "norm1": "ln_1",
            "norm2": "ln_2",
        }
        loaded = {}
        for key in layer.state_dict():
            own = key
            for theirs, file in names.items():
                own = own.replace(theirs, file)
            loaded[key] = state[f"transformer_layes.{i}.{own}"]
        layer.load_state_dict(loaded)
        x = layer(x)
    x = norm(x, "ln_post")
    found = build(state, "x")(means)
    for number, (task, level) in enumerate((task, level) for task in means for level in range(4)):
        wanted = (
            1 + x[:, number] @ state[f"spatial_ch_projs.{level}.weight"].T + state[f"spatial_ch_projs.{level}.bias"]
        )
        assert torch.allclose(found[task][level], wanted, atol=1e-4)


def test_fused_adapters():
    x = noise(1, 4, 16, 16)
    plain, found = call(merged(parts(), "sum"), x), entries(call(merged(parts(), "sum", fusing()), x))
    assert same(call(merged(parts(), "sum", fusing(0.0)), x), plain)
    assert not close(call(merged(parts(), "sum", fusing()), x), plain)
    # one adapter alone: a factor for each channel, the same at every place of its region
    alone = [entries(call(merged(parts()[:1], "sum", each), x)) for each in (fusing(), None)]
    for key, value in alone[0].items():
        plain_one = alone[1][key][0]
        felt = plain_one.abs() > 0.01
        assert felt.flatten(1).any(1).float().mean() > 0.9
        for factor, here in zip(value[0] / plain_one, felt, strict=True):
            assert not here.any() or factor[here].max() - factor[here].min() < 1e-3
    assert found.keys() == entries(plain).keys()


def test_fuser_does_not_hear_what_is_outside_of_a_region():
    """Means are weighted by the mask: what the hint holds far away changes nothing."""
    mask = torch.zeros(1, 512, 512)
    mask[:, :128, :128] = 1
    x, results = noise(1, 4, 64, 64), []
    for value in (0.2, 0.9):
        picture = hint(512)
        picture[:, :, 400:] = value
        part = applied(adapter(full(192, NARROW[:2]), "canny").with_region(region(mask, where="features")), picture)
        results.append(call(merged([part], "sum", fusing(widths=NARROW[:2])), x))
    assert close(*results, 1e-5)


def test_fused_parts_that_are_not_in_sight():
    """A part whose region the call does not touch adds nothing and is still a token of the fuser."""
    x, empty = noise(1, 4, 16, 16), torch.zeros(1, 128, 128)
    found = call(merged(parts(masks=(LEFT, empty)), "sum", fusing()), x)
    assert all(value.isfinite().all() for value in entries(found).values())
    assert call(merged(parts(masks=(empty, empty)), "sum", fusing()), x) is None


def test_fuser_runs_once():
    control = merged(parts(), "priority", fusing())
    calls = []
    control.fusing.network.register_forward_hook(lambda *_: calls.append(1))
    assert same(*(call(control, noise(1, 4, 16, 16)) for _ in range(2))) and len(calls) == 1


def test_what_cannot_be_fused():
    with pytest.raises(LimelightError, match="no CoAdapter"):
        fusing().check([applied(adapter(light(channels=(16, 32, 64, 64)), "canny"), hint(64))])
    with pytest.raises(LimelightError, match="Set task"):
        fusing().check([applied(adapter(ONE), hint(64))])
    with pytest.raises(LimelightError, match="one of each kind"):
        fusing().check(parts(tasks=("canny", "canny")))
    from limelight.models.fuser import build

    with pytest.raises(LimelightError, match="no fuser"):
        build(ONE, "x")
    with pytest.raises(LimelightError, match="ln_post.bias"):
        build({key: value for key, value in adapter_weights.fuser().items() if key != "ln_post.bias"}, "x")


def test_runs(sd15):
    """Through the sampler: the merged sum is the chain, and chained to another control it adds up."""
    x = noise(1, 4, 16, 16)
    first, second = parts("both")
    chain = run(sd15, *prompts(sd15, second.set_previous_controlnet(first)), x)
    assert torch.equal(run(sd15, *prompts(sd15, merged(parts("both"), "sum")), x), chain)
    normalised = run(sd15, *prompts(sd15, merged(parts("both"), "normalise")), x)
    assert not torch.equal(normalised, chain)
    assert not torch.equal(run(sd15, *prompts(sd15, merged(parts(), "sum", fusing())), x), chain)


def test_a_copy_for_another_device():
    control = merged(parts(), "normalise", fusing())
    copy = control.deepclone_multigpu(torch.device("cpu"))
    assert copy.fusing.network is not control.fusing.network
    assert all(a.network is not b.network for a, b in zip(copy.parts, control.parts, strict=True))
    assert same(call(copy, noise(1, 4, 16, 16)), call(control, noise(1, 4, 16, 16)))
