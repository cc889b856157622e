"""Make the tables of an experiment from its records.

measurements.csv (a row per record), configurations.csv (means and intervals per configuration), anchors.csv (drift) and
refused.csv (files that are no usable records, with the reason).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis import aggregate, tables
from ipa_energy.joblog import redirect_to
from ipa_energy.record import read_records


def main(
    paths: Sequence[str], outputs: Mapping[str, str], prices: Mapping[str, float], analysis: Mapping[str, Any]
) -> None:
    """Read the records and write the four tables."""
    reading = tables.accept(read_records(paths))
    measurements = tables.measurements_table(reading, prices)
    configurations = aggregate.configurations_table(measurements, analysis["confidence"], analysis["drop_flags"])
    tables.write_csv(outputs["measurements"], measurements)
    tables.write_csv(outputs["configurations"], configurations)
    tables.write_csv(outputs["anchors"], aggregate.anchor_table(measurements))
    tables.write_csv(outputs["refused"], tables.refused_table(paths, reading))
    print(
        f"{len(reading.records)} records of {len(configurations)} configurations, {len(reading.refused)} files refused"
    )
    for line in reading.refused:
        print(f"refused: {line}")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input.records),
        dict(snakemake.output.items()),
        snakemake.params.prices,
        snakemake.params.analysis,
    )
