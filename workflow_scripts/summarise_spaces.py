"""Put the summaries of the spaces of all inputs into one table: space/summary.csv, a row per input."""

import json
from collections.abc import Sequence
from pathlib import Path

from ipa_energy.analysis.tables import write_csv
from ipa_energy.ipa.space_json import summaries_table
from ipa_energy.joblog import redirect_to


def main(summaries: Sequence[str], table: str) -> None:
    """Read the JSON files, in the order given, and write the table."""
    read = [json.loads(Path(path).read_text(encoding="utf-8")) for path in summaries]
    write_csv(table, summaries_table(read))
    for one in read:
        print(f"{one['input']}: {one['feasible']} of {one['configurations']} configurations are feasible")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(list(snakemake.input), snakemake.output[0])
