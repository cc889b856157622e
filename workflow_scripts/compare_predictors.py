"""Compare the predictors on every load of the config: adaptation/predictors.csv, a row per load and predictor."""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.ipa.loads import load_scale
from ipa_energy.ipa.predictor_comparison import compare_predictors
from ipa_energy.ipa.trace_files import read_counts
from ipa_energy.joblog import redirect_to


def main(
    counts: Mapping[str, str],
    table: str,
    *,
    loads: Mapping[str, Any],
    predictors: Sequence[str],
    trained: tuple[str, str] | None,
) -> None:
    """Read the files of ``counts`` by load and ask every predictor every 10 s along them."""
    read = {name: read_counts(path) for name, path in counts.items()}
    scaled = {name: (seconds, load_scale(loads[name], seconds)) for name, seconds in read.items()}
    found = compare_predictors(list(predictors), scaled, trained)
    write_csv(table, found)
    print(found.to_string())


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(zip(snakemake.params.loads, snakemake.input.loads, strict=True)),
        snakemake.output[0],
        loads=snakemake.params.loads,
        predictors=snakemake.params.predictors,
        trained=tuple(snakemake.input.trained) or None,
    )
