"""Make a load of the config: requests per second, one count a line, which the serving engine replays as well."""

from collections.abc import Mapping
from typing import Any

from ipa_energy.ipa.loads import load_counts
from ipa_energy.ipa.trace_files import write_counts
from ipa_energy.ipa.workload import statistics
from ipa_energy.joblog import redirect_to


def main(path: str, *, name: str, load: Mapping[str, Any], seed: int) -> None:
    """Generate the pattern, or read the file that the config names, and write the counts."""
    counts = load_counts(name, load, seed)
    write_counts(path, counts)
    print(statistics(counts))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(snakemake.output[0], name=snakemake.wildcards.load, load=snakemake.params.load, seed=snakemake.params.seed)
