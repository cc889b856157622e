"""Predictors: the simple ones against brute force, the LSTM against them on data that it has not seen."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ipa_energy.ipa import lstm
from ipa_energy.ipa.predictors import (
    MAXIMUM,
    REACTIVE,
    WithMargin,
    backtest,
    errors,
    last_window,
    windows,
)
from ipa_energy.ipa.workload import history_counts, pattern_counts

RATES = arrays(np.float64, st.integers(1, 300), elements=st.integers(0, 50).map(float))
QUICK = lstm.Training(epochs=12, patience=12, stride_s=20, learning_rate=1e-2)


@given(RATES)
def test_reactive_and_max_are_the_maxima_of_10_s_and_2_min(rates):
    assert REACTIVE(rates) == max(rates.tolist()[-10:])
    assert MAXIMUM(rates) == max(rates.tolist()[-120:])


def test_a_margin_raises_the_rate_and_rounds_nothing():
    assert WithMargin(REACTIVE, 20)(np.array([7.0])) == pytest.approx(8.4)
    assert WithMargin(MAXIMUM, -50)(np.array([7.0])) == 3.5
    with pytest.raises(ValueError, match="margin_percent is -100"):
        WithMargin(REACTIVE, -100)


def test_nothing_is_predicted_from_nothing():
    with pytest.raises(ValueError, match="before a second has been seen"):
        REACTIVE(np.array([]))


@given(arrays(np.float64, st.integers(140, 300), elements=st.integers(0, 50).map(float)), st.integers(1, 40))
def test_windows_are_12_maxima_of_10_s_and_the_maximum_of_the_20_s_after(rates, stride_s):
    seen, ahead = windows(rates, stride_s)
    series = rates.tolist()
    starts = [i for i in range(0, len(series), stride_s) if i + 140 <= len(series)]
    assert len(seen) == len(ahead) == len(starts)
    for row, start in enumerate(starts):
        steps = [max(series[start + 10 * k : start + 10 * k + 10]) for k in range(12)]
        assert seen[row].tolist() == steps
        assert last_window(rates[: start + 120]).tolist() == steps
        assert ahead[row] == max(series[start + 120 : start + 140])


def test_a_trace_too_short_for_a_window_is_refused():
    with pytest.raises(ValueError, match="139 s holds no window"):
        windows(np.ones(139))


def test_errors_are_those_of_their_formulas():
    found = errors(np.array([10.0, 0.0, 4.0, 0.0]), np.array([5.0, 0.0, 12.0, 3.0]))
    assert found.smape_percent == pytest.approx(100 / 4 * (2 * 5 / 15 + 0 + 2 * 8 / 16 + 2))
    assert found.share_below == 0.25
    assert found.excess == pytest.approx((-5 + 8 + 3) / 14)
    with pytest.raises(ValueError, match="there are 0 and 0"):
        errors(np.array([]), np.array([]))


def test_a_backtest_asks_every_10_s_with_all_of_the_past_and_none_of_the_future():
    rates = pattern_counts("bursty", 3, seconds=300).astype(float)
    asked = []

    def spy(history):
        asked.append(len(history))
        return REACTIVE(history)

    found = backtest(spy, rates)
    assert asked == list(range(120, 281, 10))
    truth = errors(
        np.array([rates[t : t + 20].max() for t in asked]), np.array([rates[t - 10 : t].max() for t in asked])
    )
    assert found == truth


@pytest.fixture(scope="module")
def trained():
    return lstm.train(history_counts(6, seed=21).astype(float), QUICK)


def test_the_lstm_forecasts_unseen_data_better_than_both_simple_predictors(trained):
    _, report = trained
    assert report.errors["lstm"].smape_percent < 0.95 * report.errors["reactive"].smape_percent
    assert report.errors["reactive"].smape_percent < report.errors["max"].smape_percent
    assert report.errors["lstm"].share_below < 0.65


def test_the_errors_of_the_report_are_those_of_a_backtest_on_the_newest_third(trained):
    predictor, report = trained
    rates = history_counts(6, seed=21).astype(float)
    test = rates[round(len(rates) * 2 / 3) :]
    assert report.windows["test"] == (len(test) - 140) // 10 + 1
    assert backtest(REACTIVE, test[:6000]) == errors(windows(test[:6000])[1], windows(test[:6000])[0][:, -1])
    quick = test[:5000]
    asked = backtest(predictor, quick)
    seen, ahead = windows(quick)
    inside = seen.max(axis=1) <= predictor.largest_rps
    forecast = np.where(inside, predictor.forecast(seen), seen.max(axis=1))
    assert asked.smape_percent == pytest.approx(errors(ahead, forecast).smape_percent, rel=1e-4)


def test_the_lstm_learns_what_recurs():
    """A rate that jumps from 5 to 20 every 60 s for 30 s: no maximum of the past knows when, the network does."""
    t = np.arange(37_800)  # its parts are cut at multiples of 60 s, so that all see the same phases
    rates = np.where(t % 60 < 30, 20.0, 5.0)
    _, report = lstm.train(rates, lstm.Training(epochs=15, patience=15, batch=32, stride_s=10))
    assert report.errors["reactive"].smape_percent > 30
    assert report.errors["lstm"].smape_percent < 5


def test_training_is_seeded_and_never_sees_the_test_part():
    rates = history_counts(0.3, seed=2).astype(float)
    short = lstm.Training(epochs=2)
    other = rates.copy()
    other[round(len(rates) * 2 / 3) :] = 1.0
    before = torch.random.get_rng_state()
    weights = [
        lstm.train(r, t)[0].network.state_dict()
        for r, t in ((rates, short), (rates, short), (other, short), (rates, lstm.Training(epochs=2, seed=8)))
    ]
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's random numbers are left alone
    same = [all(torch.equal(w[k], weights[0][k]) for k in w) for w in weights]
    assert same == [True, True, True, False]


def test_a_saved_predictor_says_the_same_and_its_weights_run_no_code(trained, tmp_path):
    predictor, report = trained
    lstm.save(predictor, report, tmp_path / "lstm.pt", tmp_path / "lstm.json")
    assert set(torch.load(tmp_path / "lstm.pt", weights_only=True)) == set(predictor.network.state_dict())
    again = lstm.load(tmp_path / "lstm.pt", tmp_path / "lstm.json")
    history = pattern_counts("bursty", 1).astype(float)
    for moment in (60, 120, 500, 900):
        assert again(history[:moment]) == predictor(history[:moment])
    kept = json.loads((tmp_path / "lstm.json").read_text())
    assert kept["errors"]["lstm"]["smape_percent"] == report.errors["lstm"].smape_percent
    assert kept["training"]["seed"] == 7


def test_a_damaged_or_alien_predictor_is_refused_by_name(trained, tmp_path):
    predictor, report = trained
    weights, settings = tmp_path / "lstm.pt", tmp_path / "lstm.json"
    lstm.save(predictor, report, weights, settings)
    whole = settings.read_text()
    for text in ("{", "{}", whole.replace('"format": 1', '"format": 9')):
        settings.write_text(text)
        with pytest.raises(ValueError, match=r"lstm\.json does not describe"):
            lstm.load(weights, settings)
    for text, content in ((whole.replace('"hidden": 25', '"hidden": 7'), weights.read_bytes()), (whole, b"no weights")):
        settings.write_text(text)
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=r"lstm\.pt does not hold the weights"):
            lstm.load(weights, settings)
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        lstm.load(weights, settings)


def test_the_lstm_falls_back_to_the_maximum_where_it_knows_nothing(trained):
    predictor, _ = trained
    short = np.arange(119.0) % 7
    beyond = np.append(np.full(299, 5.0), predictor.largest_rps + 1)
    assert predictor(short) == MAXIMUM(short)
    assert predictor(beyond) == MAXIMUM(beyond)
    known = np.full(300, 5.0)
    assert predictor(known) == pytest.approx(predictor.forecast(np.full((1, 12), 5.0))[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"hidden": 0}, "hidden"), ({"learning_rate": 0.0}, "learning_rate"), ({"test_share": 1.0}, "test_share")],
)
def test_bad_training_settings_are_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        lstm.Training(**change)


def test_a_history_that_teaches_nothing_is_refused():
    with pytest.raises(ValueError, match="too short to train on"):
        lstm.train(np.ones(400))
    with pytest.raises(ValueError, match="holds no request"):
        lstm.train(np.zeros(10_000))


def test_all_but_the_lstm_imports_without_torch():
    modules = ("workload", "arrival_times", "trace_files", "predictors", "simulation", "outcome", "controller")
    imports = "; ".join(f"import ipa_energy.ipa.{module}" for module in modules)
    code = f"import sys; {imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
