"""Saliency metrics against pysaliency's own code, and what they say of maps that are no maps."""

from __future__ import annotations

import importlib.util
import math
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import metrics as metrics
from limelight.tools.console import StepFailed
from limelight.tools.environment import prepare_pysaliency

TOLERANCE = 1e-6
PAIRS = 200


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pysaliency takes the logarithm of 0


@pytest.fixture(scope="module")
def pysaliency(skip_or_fail):
    """pysaliency's modules `metrics` and `numba_utils`, each loaded alone. numba only makes the latter fast."""
    try:
        folder = prepare_pysaliency()
    except StepFailed as error:
        skip_or_fail(f"pysaliency's source cannot be had: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "numba", SimpleNamespace(jit=lambda **_: lambda function: function))
        patch.setattr(np, "trapz", np.trapezoid if hasattr(np, "trapezoid") else np.trapz, raising=False)  # numpy 2.4
        yield SimpleNamespace(metrics=load(folder / "metrics.py"), roc=load(folder / "numba_utils.py"))


def load(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pysaliency_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps of any size and sharpness; every third one with many ties, every fifth with values below 0."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 30, 2)
    prediction, reference = (rng.random(shape) ** rng.integers(1, 7) for _ in range(2))
    if seed % 3 == 0:
        prediction = np.round(prediction, 1)
    return (prediction - 0.5, reference - 0.1) if seed % 5 == 0 else (prediction, reference)


def test_map_metrics_equal_pysaliency(pysaliency):
    theirs = pysaliency.metrics
    for seed in range(PAIRS):
        p, q = random_pair(seed)
        assert metrics.cc(p, q) == pytest.approx(theirs.CC(p, q), abs=TOLERANCE)
        assert metrics.sim(p, q) == pytest.approx(theirs.SIM(p, q), abs=TOLERANCE)
        assert metrics.kl(p, q) == pytest.approx(theirs.MIT_KLDiv(p, q), abs=TOLERANCE)


def test_point_metrics_equal_pysaliency(pysaliency):
    for seed in range(PAIRS):
        p, q = random_pair(seed)
        points, others = metrics.sample(q, 20, seed), metrics.sample(p - p.min() + 1, 30, seed)
        x, y = points.T
        assert metrics.nss(p, points) == pytest.approx(pysaliency.metrics.NSS(p, x, y).mean(), abs=TOLERANCE)
        # the negatives of its AUC, sAUC and AUC_Judd
        everywhere = np.mean([pysaliency.roc.auc_for_one_positive(value, p.ravel()) for value in p[y, x]])
        assert metrics.auc(p, points) == pytest.approx(everywhere, abs=TOLERANCE)
        shuffled = pysaliency.roc.general_rocs_per_positive_numba(p[y, x], p[others[:, 1], others[:, 0]]).mean()
        assert metrics.auc(p, points, others) == pytest.approx(shuffled, abs=TOLERANCE)
        noisy = p + np.random.RandomState(seed=42).randn(*p.shape) * (1 / 10000000)
        seen = np.zeros(p.shape)
        pysaliency.roc.fill_fixation_map(seen, np.stack([y, x], 1))
        if (seen == 0).any():
            judd, _, _ = pysaliency.roc.general_roc_numba(noisy[y, x], noisy[seen == 0], judd=1)
            assert metrics.auc_judd(p, points) == pytest.approx(judd, abs=TOLERANCE)
        log_p, log_q = (np.log(pysaliency.metrics.convert_saliency_map_to_density(m, 1e-20)) for m in (p, q))
        gain = (log_p[y, x] - log_q[y, x]).mean() / np.log(2)
        ours = metrics.information_gain(metrics.log_density(p), points, metrics.log_density(q))
        assert ours == pytest.approx(gain, abs=TOLERANCE, rel=TOLERANCE)


def test_borji_is_the_mean_of_curves_at_its_thresholds(pysaliency):
    """pysaliency has no AUC-Borji: the benchmark's definition, written out; with fine steps it is pysaliency's ROC."""
    for seed in range(10):
        p, q = (np.floor(50 * part) for part in random_pair(seed))  # so that 1/500 parts any two values
        points = metrics.sample(q + 1, 15, seed)
        scaled = (p - p.min()) / np.ptp(p)
        looked = np.zeros(p.shape, bool)
        looked[points[:, 1], points[:, 0]] = True
        positives = scaled[looked]
        drawn = scaled.ravel()[np.random.default_rng(42).integers(p.size, size=(100, len(positives)))]
        coarse, fine = [], []
        for negatives in drawn:
            hits, alarms = [1.0], [1.0]
            for threshold in np.arange(11) * 0.1:
                if threshold <= max(positives.max(), negatives.max()):
                    hits.append(sum(value >= threshold for value in positives) / len(positives))
                    alarms.append(sum(value >= threshold for value in negatives) / len(negatives))
            coarse.append(-np.trapz([*hits, 0], [*alarms, 0]))
            fine.append(pysaliency.roc.general_roc_numba(positives, negatives)[0])
        assert metrics.auc_borji(p, points) == pytest.approx(np.mean(coarse), abs=TOLERANCE)
        assert metrics.auc_borji(p, points, step=1 / 500) == pytest.approx(np.mean(fine), abs=TOLERANCE)


FLAT, RAMP = np.full((4, 6), 0.3), np.arange(24.0).reshape(4, 6)
POINT = np.array([[5, 3]])


def test_flat_maps():
    assert metrics.cc(FLAT, RAMP) == 0
    assert math.isnan(metrics.cc(RAMP, FLAT)) and math.isnan(metrics.cc(FLAT, FLAT))
    assert metrics.sim(FLAT, FLAT) == pytest.approx(1) and metrics.kl(FLAT, FLAT) == pytest.approx(0, abs=1e-12)
    assert metrics.nss(FLAT, POINT) == 0 and metrics.auc(FLAT, POINT) == 0.5
    assert math.isnan(metrics.auc_borji(FLAT, POINT))
    black = np.zeros((4, 6))
    assert metrics.sim(black, FLAT) == pytest.approx(1) and metrics.kl(black, RAMP) == pytest.approx(
        metrics.kl(FLAT, RAMP)
    )
    assert metrics.information_gain(metrics.log_density(FLAT), POINT, metrics.log_density(black)) == pytest.approx(0)


def test_the_same_degenerate_values_as_pysaliency(pysaliency):
    theirs = pysaliency.metrics
    with np.errstate(all="ignore"):
        for p in (np.zeros((4, 6)), np.ones((4, 6)), RAMP, np.ones((1, 1))):
            for q in (np.zeros((4, 6)), np.ones((4, 6)), RAMP, np.ones((1, 1))):
                if p.shape == q.shape:
                    assert metrics.cc(p, q) == pytest.approx(theirs.CC(p, q), nan_ok=True)
                    assert metrics.sim(p, q) == pytest.approx(theirs.SIM(p.copy(), q.copy()))
                    assert metrics.kl(p, q) == pytest.approx(theirs.MIT_KLDiv(p.copy(), q.copy()), abs=1e-12)
            assert metrics.nss(p, [[0, 0]]) == pytest.approx(theirs.NSS(p, [0], [0]).mean())


def test_one_pixel():
    one, at = np.array([[0.7]]), np.array([[0, 0]])
    assert math.isnan(metrics.cc(one, one)) and metrics.sim(one, one) == 1 and metrics.nss(one, at) == 0
    assert metrics.auc(one, at) == 0.5 and math.isnan(metrics.auc_judd(one, at))


def test_maps_and_points_that_are_none():
    for bad in (np.zeros((0, 4)), np.zeros(4), np.full((4, 6), np.nan), np.full((4, 6), np.inf)):
        for function in (metrics.cc, metrics.sim, metrics.kl):
            with pytest.raises(LimelightError, match="saliency: found"):
                function(bad, RAMP)
            with pytest.raises(LimelightError, match="saliency: found"):
                function(RAMP, bad)
    with pytest.raises(LimelightError, match="6x4 and 4x6"):
        metrics.cc(RAMP.T, RAMP)
    for points in (np.zeros((0, 2)), np.array([[6, 0]]), np.array([[-1, 0]]), np.array([1, 2])):
        with pytest.raises(LimelightError, match="fixations: found"):
            metrics.nss(RAMP, points)


def test_samples_follow_the_map():
    points = metrics.sample(RAMP, 200_000, seed=1)
    counts = np.zeros(RAMP.shape)
    np.add.at(counts, (points[:, 1], points[:, 0]), 1)
    assert counts / len(points) == pytest.approx(metrics.density(RAMP), abs=0.002)
    assert (metrics.sample(RAMP, 9, seed=3) == metrics.sample(RAMP, 9, seed=3)).all()
