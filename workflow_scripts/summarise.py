"""Write summary.txt, the few lines that a run prints when it ends, from verdict.json and from what IPA's steps say."""

from collections.abc import Sequence
from pathlib import Path

from ipa_energy.analysis.summary import summary
from ipa_energy.analysis.verdict import read_verdict
from ipa_energy.files import write_text
from ipa_energy.ipa.summary_lines import lines_of
from ipa_energy.joblog import redirect_to


def main(verdict_path: str | None, summary_path: str, answers: Sequence[str] = ()) -> None:
    """Say where things lie by the folder of the summary itself; without a verdict, nothing was measured."""
    folder = str(Path(summary_path).parent)
    lines = [summary(read_verdict(verdict_path), folder)] if verdict_path else []
    told = lines_of(answers)
    write_text(summary_path, "\n".join([*lines, *(["IPA:"] * bool(told)), *(f"  {line}" for line in told)]) + "\n")


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(next(iter(snakemake.input.verdict), None), snakemake.output[0], list(snakemake.input.answers))
