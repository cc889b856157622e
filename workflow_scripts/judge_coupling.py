"""Judge every cell: from measurements.csv and coupling/pairwise.csv to the verdict and the tables behind it.

Besides verdict.json and answer.md this writes coupling/{joint, matched, partial, residual_knobs, tradeoff, membership,
objectives, sufficient, decisions}.csv. Where IPA's spaces are given, its inputs are those that choices are made for.
Where a fraction of the grid was measured, its design.json says what that leaves unknown.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ipa_energy.analysis import answer_page, evidence, tables, verdict
from ipa_energy.analysis.decision import weights_of
from ipa_energy.analysis.look import read_look
from ipa_energy.analysis.saving_rows import COLUMNS, frame_of
from ipa_energy.files import write_text
from ipa_energy.ipa.space_savings import space_savings
from ipa_energy.joblog import redirect_to


def main(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    experiment: str,
    analysis: Mapping[str, Any],
    ipa: Mapping[str, Any],
    seed: int,
    spaces: Sequence[tuple[str, str, str]] = (),
    look: str | None = None,
    design: str | None = None,
    processes: int = 1,
) -> None:
    """``spaces`` are (summary JSON, Parquet file, optima CSV) of each input; ``look`` is a sequential study's last."""
    measurements, pairwise = tables.read_csv(inputs["measurements"]), tables.read_csv(inputs["pairwise"])
    summaries = [json.loads(Path(summary).read_text(encoding="utf-8")) for summary, _, _ in spaces]
    judged = evidence.judge_all(
        measurements,
        analysis,
        seed=seed,
        inputs={s["input"]: (s["rate_rps"], s["sla_s"]) for s in summaries},
        weights=weights_of(ipa),
        workers=processes,
    )
    found = evidence.tables(judged)
    predicted = [
        space_savings(parquet, _optima(optima), tolerances=analysis["tolerances"], cost_unit=s["cost_unit"])
        | {"rate_rps": s["rate_rps"], "sla_s": s["sla_s"], "given_by": "config"}
        for s, (_, parquet, optima) in zip(summaries, spaces, strict=True)
    ]
    decisions = [frame for frame in (found["decisions"], frame_of(predicted)) if len(frame)]
    found["decisions"] = pd.concat(decisions, ignore_index=True)[list(COLUMNS)] if decisions else frame_of([])
    for name, table in found.items():
        tables.write_csv(outputs[name], table)
    made = verdict.make_verdict(
        measurements,
        pairwise,
        judged,
        tables.read_csv(inputs["refused"]),
        experiment=experiment,
        analysis=analysis,
        seed=seed,
        look=read_look(look) if look else None,
    )
    if design:
        made["limitations"].append(json.loads(Path(design).read_text(encoding="utf-8"))["limitation"])
    verdict.write_verdict(outputs["verdict"], made)
    write_text(outputs["answer"], answer_page.answer_page(made, found))
    print(made["answer"])


def _optima(path: str) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"input": "str"})


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        {name: snakemake.input[name] for name in ("measurements", "pairwise", "refused")},
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        analysis=snakemake.params.analysis,
        ipa=snakemake.params.ipa,
        seed=snakemake.params.seed,
        spaces=list(zip(snakemake.input.spaces, snakemake.input.parquets, snakemake.input.optima, strict=True)),
        look=next(iter(snakemake.input.look), None),
        design=next(iter(snakemake.input.design), None),
        processes=snakemake.threads,
    )
