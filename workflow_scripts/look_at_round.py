"""Look at a sequential study after a round: from its records so far to sequential/round{r}.json, with what follows."""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.decision import weights_of
from ipa_energy.analysis.intake import read_measurements
from ipa_energy.analysis.look import look_at, read_look, write_look
from ipa_energy.analysis.stopping import Stopping
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.settings import inputs
from ipa_energy.joblog import redirect_to


def main(
    records: Sequence[str],
    output: str,
    number: int,
    *,
    experiment: str,
    stopping: Mapping[str, Any],
    analysis: Mapping[str, Any],
    ipa: Mapping[str, Any],
    prices: Mapping[str, float],
    seed: int,
    before: Sequence[str] = (),
    profile: str | None = None,
    processes: int = 1,
) -> None:
    """``before`` is the look before, which holds those before it; ``profile`` gives IPA's inputs their SLAs."""
    measurements, refused = read_measurements(records, prices, processes)
    given = inputs(read_profile(profile), ipa, prices) if profile else {}
    look = look_at(
        measurements,
        Stopping(**stopping),
        number,
        analysis,
        experiment=experiment,
        seed=seed,
        inputs={name: (one.rate_rps, one.sla_s) for name, one in given.items()},
        weights=weights_of(ipa),
        before=[shown for path in before for shown in read_look(path)["looks"]],
        workers=processes,
    )
    write_look(output, look)
    for line in refused:
        print(f"refused: {line}")
    print(look["reason"])


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input.records),
        snakemake.output.look,
        int(snakemake.wildcards.round),
        experiment=snakemake.wildcards.experiment,
        stopping=snakemake.params.stopping,
        analysis=snakemake.params.analysis,
        ipa=snakemake.params.ipa,
        prices=snakemake.params.prices,
        seed=snakemake.params.seed,
        before=list(snakemake.input.before),
        profile=next(iter(snakemake.input.profile), None),
        processes=snakemake.threads,
    )
