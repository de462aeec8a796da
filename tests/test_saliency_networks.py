"""Saliency predictors: parity with published code on the same random weights, files, sizes, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from saliency_weights import eml_states, randomized, reference, unisal_state
from torchvision_resnet import read_out

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency.maps import centre_bias
from limelight.models import saliency_files as files
from limelight.models.classic_saliency import ClassicSaliency
from limelight.models.emlnet import EMLNet
from limelight.models.saliency import Predictor
from limelight.models.signature_saliency import SignatureSaliency, _blur, _cosines
from limelight.models.unisal import DOMAINS, VIDEO_KEYS, Unisal, input_size

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def published():
    """UNISAL's state and the vendored network with it."""
    network, state = reference(), unisal_state()
    network.load_state_dict(state)
    return network, state


def unisal(state, domain: str = "SALICON") -> Unisal:
    network = Unisal(domain).eval()
    files.fill(network, {k: v for k, v in state.items() if not k.startswith(VIDEO_KEYS)}, "test", files.UNISAL)
    return network


@pytest.mark.parametrize("domain", DOMAINS)
def test_unisal_equals_the_published_network(published, domain):
    theirs, state = published
    ours = unisal(state, domain)
    x = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(x[:, None], target_size=(201, 335), source=domain, static=True)[:, 0, 0]
        found = ours.finish(ours(x), 201, 335).log()
    assert expected.std() > 0.05
    difference = found - found.exp().sum((1, 2), keepdim=True).log() - expected
    assert difference.abs().max() < TOLERANCE


def test_every_tensor_of_unisal_is_accounted_for(published):
    _, state = published
    ours = set(Unisal().state_dict())
    video = {key for key in state if key.startswith(VIDEO_KEYS)}
    assert len(state) == 835 and not ours & video and ours | video == set(state)


def test_unisal_sizes_equal_the_published_ones():
    from mediaattention.saliency import _unisal_size

    for height, width in [(64, 64), (480, 640), (1080, 1920), (1920, 1080), (300, 1500), (4096, 4096), (700, 512)]:
        assert input_size(height, width) == _unisal_size(height, width)
    assert input_size(480, 640, 0.5) == (128, 192) and input_size(480, 640, 2) == (576, 768)


def test_emlnet_has_the_published_layout_and_meaning(host):
    """360 + 360 + 77 tensors; the branches are torchvision's ResNet-50 with read-outs of its stages."""
    network = EMLNet().eval()
    parts = network.imagenet, network.places, network.decoder
    assert [len(part.state_dict()) for part in parts] == [360, 360, 77]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [23_543_231, 23_543_231, 213]
    for seed, part in enumerate(parts):
        part.load_state_dict(randomized(part, seed))
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = read_out(network.imagenet.state_dict(), x) + read_out(network.places.state_dict(), x)
        state = network.decoder.state_dict()
        ten = [f"{side}.{i}" for side in ("img_model", "pla_model") for i in range(5)]
        wide = [
            F.interpolate(F.relu(normed(state, name, each)), x.shape[-2:]) for name, each in zip(ten, maps, strict=True)
        ]
        expected = normed(state, "combined", torch.cat(wide, 1)).sigmoid()[:, 0]
        assert (network(x) - expected).abs().max() < TOLERANCE
    assert expected.std() > 0.01


def normed(state, name: str, x: torch.Tensor) -> torch.Tensor:
    """3x3 convolution and batch normalisation of a state."""
    x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=1)
    norm = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *norm)


def test_emlnet_sees_what_gazefusion_showed_it(host):
    """Stretched to 480x640, colours untouched."""
    picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    seen = EMLNet().prepare(picture)
    from torchvision.transforms.functional import resize

    assert (seen - resize(picture, [480, 640], antialias=True)).abs().max() < 1e-6


def spot(height: int, width: int, y: float, x: float) -> torch.Tensor:
    """A reddish disc on gray, lightly textured: (3, h, w)."""
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    disc = ((rows - y).square() + (columns - x).square()).sqrt() < 0.1
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 0.05
    return torch.where(disc, torch.tensor([0.8, 0.3, 0.2])[:, None, None], 0.5 + noise)


@pytest.mark.parametrize("make", [ClassicSaliency, SignatureSaliency])
def test_predictors_without_weights_find_what_stands_out(make):
    network = make()
    for y, x in ((0.3, 0.25), (0.5, 0.5), (0.75, 0.7)):
        picture = spot(120, 160, y, x)
        found = network.finish(network(network.prepare(picture[None])), 120, 160)[0]
        at = divmod(int(found.argmax()), 160)
        assert abs(at[0] / 120 - y) < 0.1 and abs(at[1] / 160 - x) < 0.1
        assert found.max() == pytest.approx(1) and found.min() >= 0
    flat = network.log_density(torch.full((1, 3, 60, 80), 0.5)).exp()[0]
    assert flat.sum() == pytest.approx(1, abs=1e-4)
    row, column = divmod(int(flat.argmax()), flat.shape[1])
    assert abs(row - (flat.shape[0] - 1) / 2) <= 0.5 and abs(column - (flat.shape[1] - 1) / 2) <= 0.5


def test_the_signature_is_that_of_its_authors():
    """Signs of the cosine transform, squared and smoothed; what is soft about them hardly shows."""
    from scipy.fft import dctn, idctn
    from scipy.ndimage import gaussian_filter

    picture = spot(48, 64, 0.4, 0.3)
    red, green, blue = picture
    expected = 0
    for channel in (picture.mean(0), red - green, (red + green) / 2 - blue):
        for n in (1, 2, 4):
            small = F.interpolate(channel[None, None], (48 // n, 64 // n), mode="bilinear", antialias=n > 1)[0, 0]
            back = idctn(np.sign(dctn(small.numpy(), norm="ortho")), norm="ortho") ** 2
            expected = expected + F.interpolate(torch.from_numpy(back)[None, None], (48, 64), mode="bilinear")[0, 0]
    expected = gaussian_filter(expected.numpy(), 0.045 * 64) * (0.5 + 0.5 * centre_bias(48, 64))
    found = SignatureSaliency()(picture[None])[0].numpy()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    values = np.random.default_rng(0).random((12, 9))
    ours = _cosines(12).double().numpy() @ values @ _cosines(9).double().numpy().T
    assert np.abs(ours - dctn(values, norm="ortho")).max() < 1e-5
    assert np.abs(_blur(12, 2.0).numpy() @ values - gaussian_filter(values, (2, 0), truncate=9)).max() < 1e-4


@pytest.mark.parametrize("make", [ClassicSaliency, SignatureSaliency, EMLNet, Unisal])
def test_densities_sum_to_one_and_pass_gradients_on(make):
    torch.manual_seed(0)
    network = make().eval()
    network.load_state_dict(randomized(network))
    picture = spot(48, 64, 0.4, 0.6)[None].requires_grad_()
    logarithm = network.log_density(picture, 0.25)
    assert logarithm.exp().sum().item() == pytest.approx(1, abs=1e-3)
    logarithm[0, 2, 3].backward()
    assert picture.grad.isfinite().all() and picture.grad.abs().max() > 0


def save(folder, name: str, state) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / name)


def test_files_are_told_apart(host, tmp_path, published):
    save(tmp_path, "any_name.pth", published[1])
    with torch.inference_mode():  # as inside a node
        network = files.build(tmp_path / "any_name.pth", "DHF1K")
    assert isinstance(network, Unisal) and network.domain == "DHF1K"
    assert not any(p.is_inference() for p in network.parameters())
    assert torch.equal(network.cnn.features[0][0].weight, published[1]["cnn.features.0.0.weight"])
    states = eml_states()
    for name, state in states.items():
        save(tmp_path, name, state)
    for name in ("res_imagenet.pth", "res_decoder.pth"):
        network = files.build(tmp_path / name)
        assert isinstance(network, EMLNet)
        weight = network.places.state_dict()["layer4.2.conv3.weight"]
        assert torch.equal(weight, states["res_places.pth"]["state_dict"]["module.layer4.2.conv3.weight"])
    (tmp_path / "res_places.pth").unlink()
    with pytest.raises(LimelightError, match=r"res_places.pth is not beside res_decoder.pth in .*Google Drive"):
        files.build(tmp_path / "res_decoder.pth")


def test_files_that_do_not_fit(host, tmp_path, published):
    state = dict(published[1])

    def refused(changed, match: str) -> None:
        save(tmp_path, "bad.pth", changed)
        with pytest.raises(LimelightError, match=match):
            files.build(tmp_path / "bad.pth")

    name = "skip_2x.reduction.0.bias"
    refused({k: v for k, v in state.items() if k != name}, f"does not fit UNISAL: {name} is missing.*github.com")
    refused(state | {"cnn.more": torch.zeros(1)}, "cnn.more is not known")
    refused(state | {name: torch.zeros(3)}, rf"{name} is \(3,\), expected \(128,\)")
    refused(state | {name: torch.full((128,), float("nan"))}, f"{name} has values that are not numbers")
    refused({"layer": torch.zeros(1), "other": torch.zeros(1)}, "of no predictor that is known here.*begin with layer")
    refused({"layer": 1, "other": 2}, "holds no weights by name")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(LimelightError, match="predictor: bad.pth cannot be read as weights"):
        files.build(tmp_path / "bad.pth")


def test_names_in_the_folder():
    assert files.find(files.UNISAL, ["other.pth", "sub/weights_best.pth"]) == "sub/weights_best.pth"
    assert files.find(files.UNISAL, ["weights_best.pth", "UNISAL.safetensors"]) == "UNISAL.safetensors"
    assert files.find("mine.pth", ["mine.pth"]) == "mine.pth"
    with pytest.raises(LimelightError, match=r"unisal_salicon.pth or .* in the folder models/saliency.*github.com/rdr"):
        files.find(files.UNISAL, ["other.pth"])
    with pytest.raises(LimelightError, match=r"res_imagenet.pth, res_places.pth, res_decoder.pth \(all of them\)"):
        files.find(files.EMLNET, [])
    with pytest.raises(LimelightError, match="'gone.pth', which is no file"):
        files.find("gone.pth", [])


@pytest.mark.parametrize("make", [ClassicSaliency, SignatureSaliency])
@pytest.mark.parametrize("size", [(64, 64), (90, 200), (65, 31)])
def test_a_batch_equals_single_pictures(host, size, make):
    predictor = Predictor.of(make())
    places = ((0.3, 0.3), (0.7, 0.6), (0.5, 0.2), (0.4, 0.8), (0.6, 0.5))  # more than go through together
    pictures = torch.stack([spot(*size, *place) for place in places]).movedim(1, -1)
    together = predictor.predict(pictures)
    assert together.shape == pictures.shape[:3]
    for one, found in zip(pictures, together, strict=True):
        assert (predictor.predict(one[None])[0] - found).abs().max() < 1e-6


def test_unisal_in_batches_and_large(host, published):
    predictor = Predictor.of(unisal(published[1]))
    with torch.inference_mode():
        small = torch.stack([spot(64, 64, 0.3, 0.3), spot(64, 64, 0.6, 0.7)]).movedim(1, -1)
        together = predictor.predict(small, 0.4)
        for one, found in zip(small, together, strict=True):
            assert (predictor.predict(one[None], 0.4)[0] - found).abs().max() < 1e-5
        large = spot(64, 64, 0.3, 0.3).movedim(0, -1).repeat_interleave(64, 0).repeat_interleave(64, 1)[None]
        found = predictor.predict(large, 0.4)
    assert found.shape == (1, 4096, 4096) and found.max() == 1 and found.min() >= 0
