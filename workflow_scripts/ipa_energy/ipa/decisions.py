"""The predictor of an adaptation by its name in the config."""

from __future__ import annotations

from ipa_energy.ipa.predictors import MAXIMUM, REACTIVE, Predictor, WithMargin


def predictor_named(name: str, margin_percent: float, files: tuple[str, str] | None) -> Predictor:
    """The predictor of that name, raised by the margin; ``files`` are weights and settings of the LSTM.

    Raises KeyError for another name, ValueError for an LSTM without files or with damaged ones.
    """
    if name == "lstm":
        if files is None:
            raise ValueError("the LSTM predictor needs its weights and settings: train it first")
        from ipa_energy.ipa import lstm  # noqa: PLC0415 - loads torch, which the other predictors don't need

        found: Predictor = lstm.load(*files)
    else:
        found = {"reactive": REACTIVE, "max": MAXIMUM}[name]
    return WithMargin(found, margin_percent) if margin_percent else found
