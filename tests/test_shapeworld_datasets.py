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
