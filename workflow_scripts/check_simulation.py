"""Hold the simulation against the records of open loops: the same arrivals, from profile.csv alone.

adaptation/check.csv (simulated and measured figures of every such record) and adaptation/check_errors.csv (errors over
configurations).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.ipa.prediction import profile_platform
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.relative_errors import Resampling
from ipa_energy.ipa.simulation_check import check_errors, check_table, told
from ipa_energy.joblog import redirect_to
from ipa_energy.record import read_records


def main(
    records: Sequence[str],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    ipa: Mapping[str, Any],
    platforms: Mapping[str, Any],
    analysis: Mapping[str, Any],
    max_wait_s: float,
    seed: int,
) -> None:
    """Simulate the windows of the records, and write both tables."""
    profile = read_profile(inputs["profile"])
    reading = tables.accept(read_records(records))
    table = check_table(
        profile,
        [record for _, record in reading.records],
        tables.read_csv(inputs["measurements"]),
        drop_flags=analysis["drop_flags"],
        max_wait_s=max_wait_s,
        seed=seed,
        platform=profile_platform(ipa, platforms),
    )
    errors = check_errors(table, Resampling(analysis["confidence"], analysis["bootstrap"], seed))
    tables.write_csv(outputs["check"], table)
    tables.write_csv(outputs["errors"], errors)
    print(told(profile, table, errors))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input.records),
        {name: str(snakemake.input[name]) for name in ("profile", "measurements")},
        dict(snakemake.output.items()),
        ipa=snakemake.params.ipa,
        platforms=snakemake.params.platforms,
        analysis=snakemake.params.analysis,
        max_wait_s=snakemake.params.max_wait_s,
        seed=snakemake.params.seed,
    )
