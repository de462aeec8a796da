"""Shapeworld's scenes as a data set: the trainers' reader takes them, and what is beside a picture fits to it."""

from __future__ import annotations

import numpy as np
import pytest

from limelight.shapeworld.datasets import write
from limelight.training.samples import samples


@pytest.mark.parametrize("form", ["imagefolder", "webdataset"])
def test_the_mask_is_that_of_one_object(form, tmp_path):
    write("salient", tmp_path, 3, 0, form)
    found = list(samples(tmp_path, ("mask",)))
    assert len(found) == 3
    for one in found:
        inside = np.asarray(one["mask"]) > 200
        assert 0.02 < inside.mean() < 0.2 and one["text"].endswith("background")
        assert np.asarray(one["image"])[inside].std(0).max() < 12  # of one colour


def test_a_map_is_bright_on_an_object_and_often_on_one_of_several(tmp_path):
    write("saliency", tmp_path, 12, 0, "imagefolder")
    shares = []
    for one in samples(tmp_path, ("saliency",)):
        picture, seen = np.asarray(one["image"], float), np.asarray(one["saliency"], float)
        ground = np.median(picture.reshape(-1, 3), 0)
        thing = np.abs(picture - ground).max(-1) > 40
        assert seen.max() == 255 and seen[thing].mean() > 2 * seen[~thing].mean()
        shares.append((seen[thing] > 64).mean())
    assert min(shares) < 0.7 < max(shares)  # some leave objects dark
