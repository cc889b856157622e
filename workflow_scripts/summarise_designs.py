"""Put the simulated studies of all truths together: what each design saves, at which error rates, and the figure."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ipa_energy.analysis.tables import read_csv, write_csv
from ipa_energy.error_rates.design_summary import answer, summary_table
from ipa_energy.figures import designs as figure_of_designs
from ipa_energy.figures import style
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to


def main(runs: Sequence[str], outputs: Mapping[str, str]) -> None:
    """Read the tables of runs, and write summary, answer and figure."""
    summary = summary_table(pd.concat([read_csv(path) for path in runs], ignore_index=True))
    write_csv(outputs["summary"], summary)
    write_text(outputs["answer"], answer(summary))
    style.save(figure_of_designs.draw(summary), [outputs["svg"], outputs["png"]])
    print(answer(summary))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(list(snakemake.input), dict(snakemake.output.items()))
