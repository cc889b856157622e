"""Adapt in reality: one method serves a stretch of a load with the engine; a file of the run and a power trace."""

import os
import sys

from ipa_energy.configuration import Configuration, Platform
from ipa_energy.history import keep
from ipa_energy.job import Job
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import live_history_path
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
    try:
        take_place(snakemake.resources.get("node"), snakemake.resources.get("gpu_uuid"))
        content = run(live, snakemake.output.result, say)
    except (WorkflowGoneError, InfrastructureError) as error:
        sys.exit(str(error))
    keep(
        lambda stamp: live_history_path(snakemake.output.result, stamp),
        {"json": snakemake.output.result, "parquet": snakemake.output.trace},
        say,
    )
    say(in_words(content, live))


if __name__ == "__main__":
    main()
