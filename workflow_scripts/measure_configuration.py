"""Measures one configuration under one workload once: job, frames and weights in, a record and a trace out."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from ipa_energy.configuration import configuration_from_dict
from ipa_energy.history import Output, circumstances, once, told_anew
from ipa_energy.host import host_name
from ipa_energy.job import Job
from ipa_energy.joblog import redirect_to
from ipa_energy.layout import history_path, notes_folder
from ipa_energy.owner import WorkflowGoneError
from ipa_energy.place import take_place
from ipa_energy.supervisor import InfrastructureError, in_words, run, without_meters


def beside(file: str, name: str) -> str:
    """Path of a file of the experiment that lies beside ``file``: those of the variants were made from it.

    Ends the job when somebody has removed it.
    """
    path = Path(file).with_name(name)
    if not path.is_file():
        sys.exit(f"{path} is missing, from which the files in {path.parent}/weights were made: run snakemake {path}")
    return str(path)


def main() -> None:
    """Run the job that Snakemake describes."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    redirect_to(snakemake.log[0])
    wildcards, params, order = snakemake.wildcards, snakemake.params, snakemake.resources.run_order
    job = Job(
        experiment=wildcards.experiment,
        configuration=configuration_from_dict(params.configuration),
        workload=wildcards.workload,
        workload_settings=params.workload_settings,
        repetition=wildcards.repetition,
        order=order,
        settings=params.settings,
        prices=snakemake.config["prices"],
        frames=snakemake.input.frames,
        frames_facts=beside(snakemake.input.frames, "frames.json"),
        weights=beside(snakemake.input.frames, "weights.json"),
        variant_weights=tuple(snakemake.input.weights),
        weights_folder=params.weights_folder,
        trace=snakemake.output.trace,
        protocol_digest=params.protocol,
    )

    def say(text: str) -> None:
        print(f"[{order + 1}/{snakemake.resources.run_length}] {job.title}: {text}", file=terminal)
        print(text, flush=True)

    output = Output(
        snakemake.output.record,
        snakemake.output.trace,
        lambda stamp: history_path(snakemake.output.record, stamp),
        notes_folder(snakemake.input.frames),
        circumstances(host_name(), sorted(params.items()), [job.weights, *job.variant_weights, job.frames_facts]),
    )
    try:
        take_place(snakemake.resources.get("host"), snakemake.resources.get("gpu_uuid"))
        once(
            output,
            lambda kept: run(replace(job, trace=kept.trace), kept.result, say),
            say,
            anew=told_anew(),
        )
    except (WorkflowGoneError, InfrastructureError) as error:
        sys.exit(str(error))
    record = json.loads(Path(output.result).read_text(encoding="utf-8"))
    say(in_words(record))
    if order == 0:
        for line in without_meters(record):
            say(line)


if __name__ == "__main__":
    main()
