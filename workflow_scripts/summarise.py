"""Write summary.txt, the few lines that a run prints when it ends, from verdict.json."""

from pathlib import Path

from ipa_energy.analysis.summary import summary
from ipa_energy.analysis.verdict import read_verdict
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to


def main(verdict_path: str, summary_path: str) -> None:
    """Say where things lie by the folder of the summary itself."""
    write_text(summary_path, summary(read_verdict(verdict_path), str(Path(summary_path).parent)) + "\n")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(snakemake.input[0], snakemake.output[0])
