"""Control Region on ControlNets: what they add is masked at every layer."""

from __future__ import annotations

import pytest
import torch
from adapter_weights import full
from guided_runs import noise
from local_runs import adapter, applied, call, entries, half, hint, prompts, region, run
from stand_ins import control_net

from limelight.guidance.errors import LimelightError

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(scope="module")
def model(make_unet):
    return make_unet("SD15", model_channels=64, channel_mult=[1, 2], num_res_blocks=[1, 1], transformer_depth=[1, 1],
                     transformer_depth_output=[1, 1, 1, 1])  # fmt: skip


@pytest.fixture(scope="module")
def net(model):
    """The host's ControlNet with random weights, for `model`."""
    from comfy.controlnet import load_controlnet_state_dict

    return load_controlnet_state_dict(control_net(model.model.diffusion_model))


def wrap(net, **settings):
    from limelight.guidance.local.wrapped import WrappedControl

    return WrappedControl(net).with_region(region(**settings))


def image(model, control, x=None):
    return run(model, *prompts(model, control), noise(1, 4, 16, 16) if x is None else x)


def test_everywhere_is_the_controlnet_and_nowhere_is_none(model, net):
    picture = hint(128)
    theirs = image(model, applied(net, picture, 0.8))
    assert torch.equal(image(model, applied(wrap(net, mask=torch.ones(1, 64, 64)), picture, 0.8)), theirs)
    plain = image(model, None)
    for settings in ({"mask": torch.zeros(1, 64, 64)}, {"mask": half(), "strength": 0.0}, {"cond": 0.0, "uncond": 0.0}):
        assert torch.equal(image(model, applied(wrap(net, **settings), picture, 0.8)), plain)
    masked = image(model, applied(wrap(net, mask=half()), picture, 0.8))
    assert not torch.equal(masked, theirs) and not torch.equal(masked, plain)


def test_everywhere_in_batches_and_odd_sizes(model, net):
    for size in ((13, 18), (16, 16)):
        x, picture = noise(2, 4, *size), hint(100, count=2)
        theirs = image(model, applied(net, picture), x)
        assert torch.equal(image(model, applied(wrap(net, mask=torch.ones(1, 64, 64)), picture), x), theirs)


@pytest.fixture
def direct(model, net):
    """-> function (control, x, ...) -> what it adds, as in a run."""

    def act(control, x, chunks=1, **options):
        from comfy.model_management import load_models_gpu

        with torch.inference_mode():
            control.pre_run(model.model, model.model.model_sampling.percent_to_sigma)
            load_models_gpu(control.get_models())
            cond = {"c_crossattn": noise(1, 77, 64).repeat(len(x), 1, 1)}
        return entries(call(control, x, chunks, cond=cond, **options))

    return act


def test_half_a_mask(net, direct):
    x, picture = noise(2, 4, 16, 16), hint(128)
    whole, found = (
        direct(applied(net, picture), x),
        direct(applied(wrap(net, mask=half(), where="features"), picture), x),
    )
    assert found.keys() == whole.keys() and {key for key, _ in found} == {"middle", "output"}
    for key, value in found.items():
        middle = value.shape[-1] // 2
        assert torch.equal(value[..., :middle], whole[key][..., :middle])
        assert (value[..., middle:] == 0).all() and (whole[key][..., middle:] != 0).any()


def test_soft_masks_cover_exactly(net, direct):
    x, picture, mask = noise(1, 4, 16, 16), hint(128), torch.rand(1, 128, 128)
    whole, found = direct(applied(net, picture), x), direct(applied(wrap(net, mask=mask, where="features"), picture), x)
    for key, value in found.items():
        share = torch.nn.functional.avg_pool2d(mask[None], 128 // value.shape[-1])
        assert torch.allclose(value, whole[key] * share, atol=1e-5)


def test_settings(net, direct):
    x, picture = noise(2, 4, 16, 16), hint(128)
    whole = direct(applied(net, picture), x, 2, cond_or_uncond=[1, 0])
    found = direct(applied(wrap(net, levels=(0.5, 0.25, 1, 1), uncond=0.0), picture), x, 2, cond_or_uncond=[1, 0])
    for key, value in found.items():
        weight = 0.5 if value.shape[-1] == 16 else 0.25
        assert (value[0] == 0).all() and torch.allclose(value[1], weight * whole[key][1])
    blank = direct(applied(net, torch.full_like(picture, 0.5)), x)
    found = direct(applied(wrap(net, blank=1.0, fill=0.5), picture), x)
    for key, value in found.items():
        assert torch.allclose(value, whole[key] - blank[key], atol=1e-5)


def test_areas(model, net, direct):
    from limelight.guidance.local.view import AREAS, Areas

    picture, mask, x = hint(256), torch.rand(1, 256, 256), noise(4, 4, 16, 12)
    places = [(16, 12, 0, 4), (16, 12, 12, 20)]
    control = applied(wrap(net, mask=mask, where="features"), picture)
    told = {"uuids": [0, 1], AREAS: Areas((32, 32), dict(enumerate(places)))}
    found = direct(control, x, 2, **told)
    for number, (h, w, top, left) in enumerate(places):
        rows, columns = slice(8 * top, 8 * (top + h)), slice(8 * left, 8 * (left + w))
        cut = wrap(net, mask=mask[:, rows, columns], where="features")
        alone = direct(applied(cut, picture[:, :, rows, columns]), x[2 * number : 2 * number + 2])
        for key, value in found.items():
            assert torch.allclose(value[2 * number : 2 * number + 2], alone[key], atol=1e-4)


def test_windows_and_changing_batches(net, direct):
    """The host's class keeps the hints of the first batch that it sees."""
    picture, masks = hint(128, count=4), torch.stack([half()[0].roll(16 * i, 1) for i in range(4)])
    control = applied(wrap(net, mask=masks), picture)
    x = noise(4, 4, 16, 16)
    whole = direct(control, x)
    for numbers in ([1, 2], [3], [0, 1, 2, 3], [2, 0]):
        found = direct(control, x[numbers], context_window=type("W", (), {"index_list": numbers, "dim": 0})())
        for key, value in found.items():
            assert torch.allclose(value, whole[key][numbers], atol=1e-4)


def test_tiles(net, direct):
    picture, mask, x = hint(256), torch.rand(1, 256, 256), noise(1, 4, 16, 16)
    control = applied(wrap(net, mask=mask, where="features"), picture)
    control.cond_hint = control.cond_hint_original[:, :, 128:, :128]
    found = direct(control, x)
    cut = direct(applied(wrap(net, mask=mask[:, 128:, :128], where="features"), picture[:, :, 128:, :128]), x)
    assert all(torch.equal(found[key], value) for key, value in cut.items())


def test_chain(model, net, direct):
    picture, x = hint(128), noise(1, 4, 16, 16)
    two = adapter(full(192, (64, 128)))
    alone = [direct(applied(each, picture), x) for each in (wrap(net, mask=half()), two)]
    both = direct(applied(wrap(net, mask=half()), picture, before=applied(two, picture)), x)
    assert both.keys() == alone[0].keys() | alone[1].keys()
    for key, value in both.items():
        wanted = sum(each[key] for each in alone if key in each)
        assert torch.allclose(value, wanted, atol=1e-6)


@pytest.fixture(scope="module")
def tokens(host):
    """A control as diffusion transformers have them: it adds sequences, two by two latent cells to a token."""
    import comfy.controlnet

    class Tokens(comfy.controlnet.ControlBase):
        def copy(self):
            made = Tokens()
            self.copy_to(made)
            return made

        def get_control(self, x, t, cond, chunks, options):
            self.seen = self.cond_hint_original
            h, w = (-(-side // 2) for side in x.shape[-2:])
            return {"input": [torch.ones(len(x), h * w, 7)], "middle": [], "output": []}

    return Tokens


def test_tokens(tokens):
    found = call(applied(wrap(tokens(), mask=half(), where="features"), hint(128)), noise(2, 16, 16, 16))
    grid = found["input"][0].reshape(2, 8, 8, 7)
    assert (grid[:, :, :4] == 1).all() and (grid[:, :, 4:] == 0).all()
    with pytest.raises(LimelightError, match="not known"):
        odd = applied(wrap(tokens(), mask=half()), hint(128))
        odd.inner.get_control = lambda *_: {"input": [torch.ones(1, 50, 7)], "middle": [], "output": []}
        call(odd, noise(1, 16, 16, 16))


def test_without_a_region_any_control_passes(tokens):
    """Also those whose values have places that are not known, such as videos'."""
    video = tokens()
    control = applied(wrap(video, strength=0.5), hint(64))
    control.inner.get_control = lambda *_: {"input": [torch.ones(1, 3, 5, 4, 4)], "middle": [], "output": []}
    assert (call(control, noise(1, 16, 8, 8))["input"][0] == 0.5).all()


def test_nothing_in_sight_skips_the_network(net, direct):
    """A tile without any of the region."""
    control = applied(wrap(net, mask=half(256), where="features"), hint(256))
    control.cond_hint = control.cond_hint_original[:, :, :128, 128:]
    control.inner.get_control = None
    assert direct(control, noise(1, 4, 16, 16)) == {}


def test_controls_that_encode_their_hint(tokens):
    """Those give a compression of 1: the VAE has the pixels of a latent cell. The host warns where they get none."""
    from types import SimpleNamespace

    from limelight.guidance.local.view import AREAS, Areas

    inner, picture = tokens(), hint(256)
    inner.compression_ratio, inner.latent_format = 1, SimpleNamespace()
    vae = SimpleNamespace(spacial_compression_encode=lambda: 8)
    control = wrap(inner, mask=half(256), where="features").set_cond_hint(picture, 1.0, (0.0, 1.0), vae=vae)
    told = {"uuids": [0], AREAS: Areas((32, 32), {0: (16, 16, 8, 8)})}
    grid = call(control, noise(1, 16, 16, 16), **told)["input"][0].reshape(8, 8, 7)
    assert (grid[:, :4] == 1).all() and (grid[:, 4:] == 0).all()
    assert control.inner.vae is vae and torch.equal(control.inner.seen, picture[:, :, 64:192, 64:192])


def test_wrong_hint(net):
    with pytest.raises(LimelightError, match="has 4"):
        applied(wrap(net, mask=half()), hint(128, channels=4))


def test_wrong_model(net, sdxl):
    control = applied(wrap(net, mask=half()), hint(128))
    with pytest.raises(LimelightError, match="another kind of model"):
        control.pre_run(sdxl.model, sdxl.model.model_sampling.percent_to_sigma)


def test_what_the_host_asks_for(net):
    control = applied(wrap(net, mask=half()), hint(128))
    assert control.get_models() == net.get_models()
    assert control.inference_memory_requirements(torch.float32) == net.inference_memory_requirements(torch.float32)
    control.set_extra_arg("control_type", [3])
    assert control.copy().inner.extra_args == {"control_type": [3]} and not net.extra_args
    assert control.compression_ratio == net.compression_ratio and control.concat_mask is net.concat_mask
    assert net.cond_hint_original is None and net.cond_hint is None
