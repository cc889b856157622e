"""The protocol of one measurement, in the process that measures: from a job to a record.

Bare idle -> load the models -> idle with models resident -> warm up until service times are steady -> window -> idle
with models resident again -> models gone, bare idle again -> quality gates -> record. The process serves
(:mod:`.serving`) and reads the meters on a second thread; models run in replicas. It expects the host's lock to be held
by its supervisor (:mod:`.supervisor`), and is run by it as
``python -m ipa_energy.measurement JOB RESULT``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ipa_energy import host, pipelines
from ipa_energy.child import main
from ipa_energy.deployment import REPLICA_MODULE, keep_one_gpu, make_arrays, make_stages, move_dispatcher, plan_replicas
from ipa_energy.job import Job, job_from_json
from ipa_energy.meters import open_meters
from ipa_energy.meters.recorder import Recorder, WindowReading
from ipa_energy.observation import build_record
from ipa_energy.phases import LOAD_TIMEOUT_S, Clock, idle_phase, open_window, warm_up
from ipa_energy.plan import block_and_role
from ipa_energy.record import Record
from ipa_energy.serving.arrivals import make_workload
from ipa_energy.serving.engine import Engine
from ipa_energy.serving.processes import Replicas, connect_to_server
from ipa_energy.trace import write_trace


def measure(job: Job, say: Callable[[str], None]) -> Record:
    """Run the protocol. Raises ServingError when a replica fails, ValueError when the job can't be served."""
    clock = Clock(say)
    configuration = job.configuration
    protocol = job.settings["protocol"]
    workload = make_workload(
        job.workload_settings,
        batch_capacity=sum(s.batch * s.replicas for s in configuration.stages),
        # The same arrivals for all configurations of a block, others in the next: repetitions hold their chance, too.
        seed=(job.settings["seed"], block_and_role(job.repetition)[0]),
    )
    arrays, frames, slots = make_arrays(job, workload.in_flight)
    cores = host.available_cores()
    if configuration.platform.device == "cuda":
        keep_one_gpu()
    with clock.phase("start"):
        modules = (REPLICA_MODULE, *pipelines.get(configuration.pipeline).modules)
        server = connect_to_server(modules, job.protocol_digest)
        meters = open_meters(job.settings["meters"], gpu_needed=configuration.platform.device == "cuda")
        recorder = Recorder(meters.meters, protocol["sample_period_s"])
    idle: dict[str, WindowReading | None] = {}
    try:
        idle["bare"] = idle_phase(recorder, clock, "idle_bare", job)
        with Replicas(server) as processes:
            with clock.phase("load_models"):
                plans = plan_replicas(job, arrays, cores)
                for plan in plans:
                    processes.start(plan)
                cpus = {plan.name: plan.cpus for plan in plans}
                move_dispatcher(cores, cpus.values())
                processes.wait_ready(LOAD_TIMEOUT_S)
            idle["resident"] = idle_phase(recorder, clock, "idle_resident", job)
            engine = Engine(make_stages(job, processes), processes, workload, frames=frames, slots=slots)
            pids = [os.getpid(), *meters.process_ids, *(r.pid for r in processes.replicas)]
            with clock.phase("warm_up"):
                steady = warm_up(engine, job, workload.in_flight)
            used = {cpu for plan in plans for cpu in plan.cpus}
            window = open_window(engine, recorder, job, pids, used, steady, clock)
            with clock.phase("quiesce"):
                engine.quiesce()
            idle["after"] = idle_phase(recorder, clock, "idle_after", job)
            with clock.phase("stop"):
                processes.stop()
                facts = {r.name: {"pid": r.pid, "cpus": cpus[r.name], "facts": r.facts} for r in processes.replicas}
        idle["bare_after"] = idle_phase(recorder, clock, "idle_bare_after", job)
        move_dispatcher(cores, [])  # the record tells of all cores, not of those left to the dispatcher
        recorder.shutdown()
        write_trace(job.trace, window.reading.samples, window.begin_s)
        return build_record(job, engine.journal, window, idle, meters, facts, clock.timeline)
    finally:
        for meter in meters.meters:
            meter.close()


if __name__ == "__main__":
    main(lambda text, say, _keep: measure(job_from_json(text), say))
