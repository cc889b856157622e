"""Cut the external power logs of the config to the windows of the records.

external.csv (a row per record and log: energy, idle power, uncertainty, flags) and external_clocks.csv (a row per clock
of a log: its readings, and how its clock was set against that of the host). Records are read and never changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.external.settings import all_settings
from ipa_energy.external.tables import external_tables
from ipa_energy.joblog import redirect_to
from ipa_energy.record import read_records


def main(paths: Sequence[str], outputs: Mapping[str, str], logs: Mapping[str, Mapping[str, Any]]) -> None:
    """Read records and logs and write the two tables."""
    reading = tables.accept(read_records(paths))
    external, clocks = external_tables(all_settings(logs), reading.records)
    tables.write_csv(outputs["external"], external)
    tables.write_csv(outputs["clocks"], clocks)
    print(clocks.drop(columns="boundary").T.to_string(header=False))
    for log, rows in external.groupby("log"):
        print(f"{log}: energy for {rows['gross_j'].notna().sum()} of {len(rows)} records")
        for reason, number in rows["reason"].value_counts().items():
            print(f"{log}: {number} x {reason}")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(list(snakemake.input.records), dict(snakemake.output.items()), snakemake.params.logs)
