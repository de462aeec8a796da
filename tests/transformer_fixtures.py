"""Models of the transformers' tests: a test file has them with ``pytest_plugins = ["transformer_fixtures"]``."""

from __future__ import annotations

import pytest
from transformer_models import KINDS, build


@pytest.fixture(scope="module", params=KINDS)
def kind(request, host):
    """One after the other, a test each."""
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    """A model of this kind, the same for all tests of a file."""
    return build(kind)


@pytest.fixture(scope="module")
def zimage(host):
    """One of a kind that has most of what makes them hard."""
    return build("ZImage")
