"""Measures one configuration under one workload once: job parameters, frames and weights in, a record and a trace out."""

import os
import sys

from ipa_energy.configuration import configuration_from_dict
from ipa_energy.job import Job
from ipa_energy.joblog import redirect_to
from ipa_energy.plan import find_place
from ipa_energy.supervisor import WorkflowGone, in_words, run


def main() -> None:
    """Run the job that Snakemake describes."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    redirect_to(snakemake.log[0])
    wildcards = snakemake.wildcards
    place = find_place(snakemake.input.plan, wildcards.workload, wildcards.configuration, wildcards.repetition)
    job = Job(
        experiment=wildcards.experiment,
        configuration=configuration_from_dict(snakemake.params.configuration),
        workload=wildcards.workload,
        workload_settings=snakemake.params.workload_settings,
        block=place.block,
        repetition=wildcards.repetition,
        role=place.role,
        order=place.order,
        settings=snakemake.params.settings,
        prices=snakemake.config["prices"],
        frames=snakemake.input.frames,
        weights=snakemake.input.weights,
        weights_folder=snakemake.params.weights_folder,
        trace=snakemake.output.trace,
        protocol_digest=snakemake.params.protocol,
    )

    def say(text: str) -> None:
        print(f"[{place.order + 1}/{place.total}] {job.title}: {text}", file=terminal)
        print(text, flush=True)

    try:
        say(in_words(run(job, snakemake.output.record, say)))
    except WorkflowGone as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
