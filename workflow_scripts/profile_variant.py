"""Profile one stage variant: all its batch sizes and cores, one after the other, into one file; and its power trace."""

import os
import sys
from dataclasses import replace

from ipa_energy.configuration import configuration_from_dict
from ipa_energy.history import Output, circumstances, once, told_anew
from ipa_energy.host import host_name
from ipa_energy.job import Job
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import notes_folder, profile_history_path
from ipa_energy.owner import WorkflowGoneError
from ipa_energy.place import take_place
from ipa_energy.profile_supervisor import run
from ipa_energy.supervisor import InfrastructureError


def main() -> None:
    """Run the jobs that Snakemake describes."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    redirect_to(snakemake.log[0])
    wildcards, params = snakemake.wildcards, snakemake.params
    jobs = [
        Job(
            experiment=wildcards.experiment,
            configuration=configuration_from_dict(configuration),
            workload="profile",
            workload_settings=params.workload_settings,
            repetition="block1-profile",
            order=order,
            settings=params.settings,
            prices=snakemake.config["prices"],
            frames=snakemake.input.frames,
            frames_facts=snakemake.input.digest,
            weights=snakemake.input.decision,
            variant_weights=(snakemake.input.weights,),
            weights_folder=params.weights_folder,
            trace=snakemake.output.trace,
            protocol_digest=params.protocol,
        )
        for order, configuration in enumerate(params.configurations)
    ]

    def say(text: str) -> None:
        print(f"[profile] {wildcards.stage} {wildcards.variant}: {text}", file=terminal)
        print(text, flush=True)

    output = Output(
        snakemake.output.profile,
        snakemake.output.trace,
        lambda stamp: profile_history_path(snakemake.output.profile, stamp),
        notes_folder(snakemake.input.decision),
        circumstances(
            host_name(),
            sorted(params.items()),
            [snakemake.input.decision, snakemake.input.weights, snakemake.input.digest],
        ),
    )
    try:
        take_place(snakemake.resources.get("host"), snakemake.resources.get("gpu_uuid"))
        once(
            output,
            lambda kept: run([replace(job, trace=kept.trace) for job in jobs], kept.result, say),
            say,
            anew=told_anew(),
        )
    except (WorkflowGoneError, InfrastructureError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
