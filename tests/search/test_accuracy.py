"""What the quality model says of weights nobody has trained."""

import numpy as np
import pytest

from objectives.quality import metric_named
from search.propose.surrogate.quality import DecayMean, QualityModel, QualityObservation
from search.space.deployments import Deployment
from tests import worlds

ONE, OTHER = ("eager", "fp32"), ("onnx", "int8")


def truth(x: np.ndarray) -> np.ndarray:
    return 0.85 - 0.2 * (1 - x[:, 0]) ** 2 - 0.1 * (1 - x[:, 1]) * (1 - x[:, 0])


def observed(count: int, seed: int, noise: float = 0.003) -> list[QualityObservation]:
    rng = np.random.default_rng(seed)
    x = rng.random((count, 2))
    y = truth(x) + rng.normal(0, noise, count)
    return [
        QualityObservation(tuple(row), {ONE: value, OTHER: value - 0.01})
        for row, value in zip(x.tolist(), y.tolist(), strict=True)
    ]


def test_predictions_are_near_and_their_errors_honest() -> None:
    inside, errors = [], []
    for seed in range(5):
        model = QualityModel()
        model.learn(observed(30, seed), 0.5, 0.85, (1.0, 1.0))
        wanted = np.random.default_rng(100 + seed).random((200, 2))
        mean, sd = model.predict(wanted)
        away = (mean + model.offset(ONE, wanted)) - truth(wanted)
        inside.append(np.mean(np.abs(away) < 2 * sd))
        errors.append(np.abs(away).mean())
    assert np.mean(errors) < 0.004
    assert np.mean(inside) > 0.85


@pytest.mark.parametrize("luck", [0.0, 0.1])
def test_the_decay_falls_from_the_uncompressed_model_with_every_setting(luck: float) -> None:
    """Also where, by luck, those were better that had more taken away of one setting."""
    features = np.random.default_rng(0).random((12, 2))
    decay = DecayMean.fitted(features, truth(features) + luck * (1 - features[:, 1]), np.ones(2), 0.5, 0.85)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9), indexing="ij"), axis=-1)
    remaining = decay.remaining(grid.reshape(-1, 2)).reshape(9, 9)
    assert remaining[-1, -1] == 1.0
    assert (np.diff(remaining, axis=0) >= 0).all() and (np.diff(remaining, axis=1) >= 0).all()
    assert (remaining > 0).all()


def test_perplexity_rises_with_every_setting() -> None:
    """Of a small language model: half of its neurons or of its heads cost several times the perplexity."""
    metric = metric_named("perplexity")
    shares = np.random.default_rng(2).random((12, 2))
    cut = 1 - shares
    perplexity = 50 * np.exp(2.5 * cut[:, 0] + 1.5 * cut[:, 1] ** 2)
    values = np.array([metric.utility(value) for value in perplexity.tolist()])
    guess, best = metric.utility(900.0), metric.utility(50.0)
    model, pair = QualityModel(), Deployment("eager", "fp32")
    model.learn(
        [QualityObservation(tuple(x), {pair: y}) for x, y in zip(shares.tolist(), values.tolist(), strict=True)],
        guess,
        best,
        (1.0, 1.0),
    )
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 6)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    decay = DecayMean.fitted(shares, values, np.ones(2), guess, best)
    predicted = np.exp(-model.predict(grid)[0])
    for rises in (np.exp(-(guess + (best - guess) * decay.remaining(grid))), predicted):
        assert (np.diff(rises.reshape(6, 6), axis=0) < 0).all() and (np.diff(rises.reshape(6, 6), axis=1) < 0).all()
    wanted = 50 * np.exp(2.5 * (1 - grid[:, 0]) + 1.5 * (1 - grid[:, 1]) ** 2)
    assert np.abs(np.log(predicted / wanted)).mean() < 0.2


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_the_decay_finds_how_what_the_settings_take_adds_up(exponent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(1).random((40, 2))
    taken = 0.8 * (1 - features[:, 0]) + 0.6 * (1 - features[:, 1]) ** 2
    left = np.exp(-(taken**exponent))

    def error() -> float:
        decay = DecayMean.fitted(features, 0.5 + 0.35 * left, np.ones(2), 0.5, 0.85)
        return float(np.abs(decay.remaining(features) - left).mean())

    free = error()
    assert free < 0.02
    monkeypatch.setattr("search.propose.surrogate.quality.EXPONENTS", (1.0,))
    assert error() > 2 * free or exponent == 1.0


def test_with_a_dozen_weights_of_five_settings_the_decay_tells_more_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, pair = worlds.synthetic(), Deployment("onnx", "int8")
    features, quality = world.grid.features(world.rows), world.quality[:, world.deployments.index(pair)]
    off = world.uncompressed

    def errors() -> tuple[float, float]:
        away, inside = [], []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            chosen = [off, *rng.integers(len(features), size=11)]
            observations = [QualityObservation(tuple(features[i]), {pair: float(quality[i])}) for i in chosen]
            model = QualityModel()
            model.learn(observations, world.constant_guess, float(quality[off]), tuple(features[off]))
            others = rng.integers(len(features), size=400)
            mean, sd = model.predict(features[others])
            away.append(np.abs(mean - quality[others]))
            inside.append(away[-1] < 2 * sd)
        return float(np.mean(away)), float(np.mean(inside))

    with_decay, inside = errors()
    monkeypatch.setattr(DecayMean, "remaining", lambda self, features: np.ones(len(features)))
    without, _ = errors()
    assert with_decay < 0.8 * without
    assert inside > 0.85


def test_a_pair_has_an_offset_of_its_own() -> None:
    model = QualityModel()
    model.learn(observed(20, 0), 0.5, 0.85, (1.0, 1.0))
    here = np.array([[0.2, 0.7], [0.9, 0.9]])
    assert model.offset(OTHER, here) - model.offset(ONE, here) == pytest.approx([-0.01, -0.01], abs=0.001)


def test_an_offset_follows_the_settings() -> None:
    """A low precision costs small models more: where it was seen so, it is expected so of others."""
    observations = [
        QualityObservation(s.features, {ONE: s.quality[ONE], OTHER: s.quality[ONE] - 0.04 * (1 - s.features[0])})
        for s in observed(30, 0)
    ]
    model = QualityModel()
    model.learn(observations, 0.5, 0.85, (1.0, 1.0))
    small, large = model.offset(OTHER, np.array([[0.1, 0.5], [0.9, 0.5]])) - model.offset(ONE, np.zeros((2, 2)))
    assert small == pytest.approx(-0.036, abs=0.008)
    assert large == pytest.approx(-0.004, abs=0.008)


def test_one_measurement_of_a_pair_is_drawn_towards_no_difference() -> None:
    model = QualityModel()
    model.learn(
        [QualityObservation((0.1, 0.2), {ONE: 0.8}), QualityObservation((0.5, 0.5), {ONE: 0.82, OTHER: 0.78})],
        0.5,
        0.85,
        (1.0, 1.0),
    )
    assert -0.04 < model.offset(OTHER, np.array([[0.5, 0.5]]))[0] < 0


def test_nothing_known_is_wide_and_no_crash() -> None:
    model = QualityModel()
    model.learn([], 0.5, 0.85, (1.0, 1.0))
    mean, sd = model.predict([(0.1, 0.2)])
    assert sd[0] == pytest.approx(0.35)
    assert np.isfinite(mean[0])
