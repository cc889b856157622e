"""Train the LSTM that predicts the rate, on a generated history of the size of the largest load of the config."""

from collections.abc import Sequence

from ipa_energy.ipa.loads import scale_of_counts
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.ipa.trained_predictors import train_lstm
from ipa_energy.joblog import redirect_to


def main(counts: Sequence[str], weights: str, settings: str, *, largest_scale: float, days: float, seed: int) -> None:
    """Train for the larger of the patterns' ``largest_scale`` and the scales of the files of ``counts``, and write."""
    scale = max([largest_scale, *(scale_of_counts(read_counts(path)) for path in counts)])
    report = train_lstm(days, scale, seed, weights, settings)
    print(f"scale {scale:g}: {report['epochs']} epochs in {report['seconds']:.1f} s")
    print(f"errors on the test part: {report['errors']}")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input),
        snakemake.output.weights,
        snakemake.output.settings,
        largest_scale=snakemake.params.largest_scale,
        days=snakemake.params.days,
        seed=snakemake.params.seed,
    )
