"""Train the LSTM that predicts the rate, on a generated history of the size of the largest load of the config."""

from collections.abc import Mapping
from typing import Any

from ipa_energy.ipa.loads import load_scale
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.ipa.trained_predictors import train_lstm
from ipa_energy.joblog import redirect_to


def main(
    counts: Mapping[str, str], weights: str, settings: str, *, loads: Mapping[str, Any], days: float, seed: int
) -> None:
    """Find the largest scale among the files of ``counts`` by load, train, and write network and errors."""
    scale = max(load_scale(loads[name], read_counts(path)) for name, path in counts.items())
    report = train_lstm(days, scale, seed, weights, settings)
    print(f"scale {scale:g}: {report['epochs']} epochs in {report['seconds']:.1f} s")
    print(f"errors on the test part: {report['errors']}")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(zip(snakemake.params.loads, snakemake.input, strict=True)),
        snakemake.output.weights,
        snakemake.output.settings,
        loads=snakemake.params.loads,
        days=snakemake.params.days,
        seed=snakemake.params.seed,
    )
