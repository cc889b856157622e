"""Adapt in reality: one method serves a stretch of a load with the engine; a file of the run and a power trace."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from ipa_energy.configuration import Configuration, Platform
from ipa_energy.history import Output, circumstances, once, told_anew
from ipa_energy.host import host_name
from ipa_energy.job import Job
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import live_history_path, notes_folder
from ipa_energy.live_job import live_job
from ipa_energy.live_supervisor import in_words, run
from ipa_energy.owner import WorkflowGoneError
from ipa_energy.place import take_place
from ipa_energy.supervisor import InfrastructureError


def main() -> None:
    """Run the job that Snakemake describes."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    redirect_to(snakemake.log[0])
    files, wildcards, params = snakemake.input, snakemake.wildcards, snakemake.params
    job = Job(
        experiment=wildcards.experiment,
        configuration=Configuration(params.pipeline, (), Platform(**params.platform)),
        workload=params.ipa["adaptation"]["live"]["load"],
        workload_settings={"kind": "rate", "drop_after_s": params.ipa["adaptation"]["drop_after_s"]},
        repetition=f"block{wildcards.run.removeprefix('run')}-live",
        order=0,
        settings=params.settings,
        prices=snakemake.config["prices"],
        frames=files.frames,
        frames_facts=files.digest,
        weights=files.decision,
        variant_weights=tuple(files.weights),
        weights_folder=params.weights_folder,
        trace=snakemake.output.trace,
        protocol_digest=params.protocol,
    )

    def say(text: str) -> None:
        print(f"[live] {wildcards.method}, {wildcards.run}: {text}", file=terminal)
        print(text, flush=True)

    live = live_job(
        job, wildcards.method, files.load, files.profile, tuple(files.predictor) or None, params.ipa, params.prices
    )
    output = Output(
        snakemake.output.result,
        snakemake.output.trace,
        lambda stamp: live_history_path(snakemake.output.result, stamp),
        notes_folder(snakemake.input.decision),
        circumstances(
            host_name(),
            sorted(params.items()),
            [files.decision, *files.weights, files.digest, files.profile, files.load, *files.predictor],
        ),
    )
    try:
        take_place(snakemake.resources.get("host"), snakemake.resources.get("gpu_uuid"))
        once(
            output,
            lambda kept: run(replace(live, job=replace(live.job, trace=kept.trace)), kept.result, say),
            say,
            anew=told_anew(),
        )
    except (WorkflowGoneError, InfrastructureError) as error:
        sys.exit(str(error))
    say(in_words(json.loads(Path(output.result).read_text(encoding="utf-8")), live))


if __name__ == "__main__":
    main()
