"""Draw the power of one record over time, from the record and its trace."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ipa_energy.figures import power_over_time, style
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import trace_of
from ipa_energy.record import read_record


def main(record: str, trace: Path, outputs: Mapping[str, str]) -> None:
    """Draw; a trace that is gone is said in the figure."""
    table = pd.read_parquet(trace) if trace.exists() else None
    style.save(power_over_time.draw(read_record(record), table), [outputs["svg"], outputs["png"]])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(snakemake.input[0], trace_of(snakemake.input[0]), dict(snakemake.output.items()))
