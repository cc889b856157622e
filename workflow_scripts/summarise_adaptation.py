"""Summarise the simulated adaptation of all loads: means over the seeds, and the answer in words."""

from collections.abc import Sequence

import pandas as pd

from ipa_energy.analysis.tables import write_csv
from ipa_energy.files import write_text
from ipa_energy.ipa.adaptation_summary import answer, read_runs, summary_table
from ipa_energy.joblog import redirect_to


def main(runs: Sequence[str], table: str, text: str, *, confidence: float, cost_unit: str) -> None:
    """Read the tables of runs, in the order given, and write summary and answer."""
    read = [read_runs(pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])) for path in runs]
    summary = summary_table(pd.concat(read, ignore_index=True), confidence)
    write_csv(table, summary)
    write_text(text, answer(summary, cost_unit))
    print(answer(summary, cost_unit))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input),
        snakemake.output.summary,
        snakemake.output.answer,
        confidence=snakemake.params.confidence,
        cost_unit=snakemake.params.cost_unit,
    )
