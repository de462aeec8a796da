"""The node of saliency guidance and its decoders: what they take, what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import random_weights
from guided_runs import conditioning, noise, sample

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import decoders, through
from limelight.guidance.saliency.guidance import Steps, Wish, attach, steer
from limelight.models.saliency import Predictor
from limelight.models.signature_saliency import SignatureSaliency

LEFT = torch.zeros(1, 32, 32)
LEFT[:, 12:20, 4:12] = 1


@pytest.fixture(scope="module")
def predictor(host):
    return Predictor.of(SignatureSaliency())


@pytest.fixture(scope="module")
def node(host):
    from limelight.nodes import saliency_guidance as module

    def run(*args, **kwargs):
        with torch.inference_mode():
            return module.LimelightSaliencyGuidance.execute(*args, **kwargs).result[0]

    return SimpleNamespace(run=run, choose=module.chosen_decoder)


def test_the_node(node, tiny_sd15, predictor):
    positive = conditioning()
    made = node.run(tiny_sd15, predictor, LEFT, 1.0, 0.0, 1.0, 2, "preview colours", "prediction only")
    decoder = decoders.preview(tiny_sd15.model.latent_format)
    same = attach(tiny_sd15, predictor, decoder, Wish(LEFT), Steps(iterations=2), 0.0, 1.0)
    assert torch.equal(sample(made, positive), sample(same, positive))
    for way in ("through the model", "prediction only"):
        alone = node.run(tiny_sd15, predictor, LEFT * 0, 1.0, 0.0, 1.0, 2, "preview colours", way, suppress=LEFT)
        assert not torch.equal(sample(alone, positive), sample(same, positive))
    default = node.run(tiny_sd15, predictor, LEFT, 1.0, 0.0, 1.0, 2, "preview colours")
    same = through.attach(tiny_sd15, predictor, decoder, Wish(LEFT), Steps(iterations=2), 0.0, 1.0)
    assert torch.equal(sample(default, positive), sample(same, positive))
    for wrong, match in (
        ({"predictor": "x"}, "predictor: found 'x'; expected one from Load"),
        ({"target": torch.ones(1, 8, 8)}, "target: found a flat map"),
        ({"start_percent": 0.7, "end_percent": 0.3}, "start_percent: found 0.7, which is after end_percent 0.3"),
        ({"decoder": "VAE"}, "vae: found nothing"),
        ({"decoder": "TAESD"}, "whose name begins with 'taesd_decoder' in models/vae_approx, and none is there"),
        ({"method": "other"}, "method: found 'other'; expected one of through the model"),
        ({"decoder": "other"}, "decoder: found 'other'"),
    ):
        given = {"predictor": predictor, "target": LEFT, "start_percent": 0.0, "end_percent": 1.0} | wrong
        with pytest.raises(LimelightError, match=match):
            node.run(tiny_sd15, strength=1.0, iterations=1, **given)


def test_taesd_of_the_models_folder(node, predictor, host, tmp_path):
    """A file with random weights: found by its name, read, differentiable; a VAE of another model is refused."""
    import comfy.latent_formats
    import folder_paths
    from comfy.taesd.taesd import Decoder

    latent_format = comfy.latent_formats.SD15()
    assert node.choose("automatic", latent_format, None).label == decoders.PREVIEW
    folder_paths.add_model_folder_path("vae_approx", str(tmp_path))
    try:
        network = Decoder()
        random_weights(network, seed=0, gain=1.4)
        torch.save(network.state_dict(), tmp_path / "taesd_decoder.pth")
        with torch.inference_mode():
            decoder = node.choose("automatic", latent_format, None)
            assert decoder.label == decoders.TINY
            latents = noise(1, 4, 8, 8)
            added = steer(latents, predictor.network, decoder, Wish(LEFT), Steps(iterations=1))
        assert (
            added.isfinite().all()
            and added.abs().max() > 0.01
            and decoder.decode(noise(1, 4, 6, 100)).shape == (1, 3, 24, 384)
        )
        (tmp_path / "taesd_decoder.pth").write_bytes(b"nonsense")
        with pytest.raises(LimelightError, match="taesd_decoder.pth cannot be read"):
            node.choose("TAESD", latent_format, None)
    finally:
        folder_paths.folder_names_and_paths["vae_approx"][0].remove(str(tmp_path))
        folder_paths.filename_list_cache.pop("vae_approx", None)
    with pytest.raises(LimelightError, match="vae: found one for latents of 16 channels, but the model's have 4"):
        node.choose("VAE", latent_format, SimpleNamespace(latent_channels=16))
    with pytest.raises(LimelightError, match=r"no preview colours for this model's latents \(LatentFormat\)"):
        decoders.preview(comfy.latent_formats.LatentFormat())
