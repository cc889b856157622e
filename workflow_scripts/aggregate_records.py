"""Make the tables of an experiment from its records, and from external.csv where there are external logs.

measurements.csv (a row per record), configurations.csv (means and intervals per configuration), anchors.csv (drift) and
refused.csv (files that are no usable records, with the reason).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis import aggregate, intake, tables
from ipa_energy.external.join import join_external
from ipa_energy.external.settings import RECORD, log_settings
from ipa_energy.history import forget
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import notes_folder
from ipa_energy.record import Reading

MOST_NAMED = 10
"""Refused files on the terminal; refused.csv names them all."""


def main(
    paths: Sequence[str],
    outputs: Mapping[str, str],
    prices: Mapping[str, float],
    analysis: Mapping[str, Any],
    *,
    external: str | None = None,
    external_logs: Mapping[str, Mapping[str, Any]] | None = None,
    no_files: Mapping[str, str] | None = None,
    processes: int = 1,
) -> None:
    """Read the records, and the table ``external`` of the cut logs if there is one, and write the four tables.

    ``no_files`` has the paths that are named like records and are no files, with what they are.
    """
    read, unusable = intake.read_measurements(paths, prices, processes)
    refused = (*unusable, *(f"{path}: {what}" for path, what in (no_files or {}).items()))
    measurements = join_external(
        read,
        None if external is None else tables.read_csv(external),
        {name: log_settings(name, settings) for name, settings in (external_logs or {}).items()},
        analysis.get("energy_from", RECORD),
    )
    configurations = aggregate.configurations_table(measurements, analysis["confidence"], analysis["drop_flags"])
    tables.write_csv(outputs["measurements"], measurements)
    tables.write_csv(outputs["configurations"], configurations)
    tables.write_csv(outputs["anchors"], aggregate.anchor_table(measurements))
    tables.write_csv(outputs["refused"], tables.refused_table([*paths, *(no_files or {})], Reading((), refused)))
    print(f"{len(read)} records of {len(configurations)} configurations, {len(refused)} files refused")
    for line in refused:
        print(f"refused: {line}")


def advice(refused: str, *, measured_here: bool) -> list[str]:
    """Lines for the terminal on the table ``refused``: which files, and how a record of the plan is measured anew."""
    rows = tables.read_csv(refused)
    few = rows.head(MOST_NAMED)
    lines = [f"refused: {path}: {reason}" for path, reason in zip(few["path"], few["reason"], strict=True)]
    if len(rows) > MOST_NAMED:
        lines.append(f"refused: {len(rows) - MOST_NAMED} more, in {refused}")
    if len(rows) and measured_here:
        lines.append(f'to measure it anew: snakemake --cores all --force "{rows["path"].iloc[0]}"; then run again')
    return lines


if __name__ == "__main__":
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input.records),
        dict(snakemake.output.items()),
        snakemake.params.prices,
        snakemake.params.analysis,
        external=next(iter(snakemake.input.external), None),
        external_logs=snakemake.params.external_logs,
        no_files=snakemake.params.no_files,
        processes=snakemake.threads,
    )
    for said in advice(snakemake.output.refused, measured_here=bool(snakemake.input.plan)):
        print(said, file=terminal)
    forget(notes_folder(snakemake.output.measurements))  # Snakemake has seen all records, or we would not run
