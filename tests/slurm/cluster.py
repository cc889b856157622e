"""A whole Slurm on one machine, from Debian's packages: munge, a controller, and nodes that have a GPU resource each.

The nodes are virtual: daemons of their own names and ports on this machine, with a device that is none. Each gives its
jobs a measurement lock and a journal of its own, as machines of their own would have. Slurm's job steps find their
configuration only at /etc/slurm, so it is written there, never in the place of one that is not ours, and removed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

FOLDER = Path("/etc/slurm")
PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
"""What is needed, and Debian's package that brings it; slurm-wlm brings all but munge."""
MARK = "# Written by a test of ipa-energy, which removes it."
NODES = ("n1", "n2")

_CONFIGURATION = """{mark}
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
TaskProlog={folder}/task_prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=5
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
_TASK_PROLOG = """#!/bin/sh
echo "export IPA_ENERGY_LOCK={folder}/lock.$SLURMD_NODENAME"
echo "export IPA_ENERGY_JOURNAL={folder}/journal.$SLURMD_NODENAME"
"""


class NoClusterError(RuntimeError):
    """Slurm can't be brought up here; the text says why and what to do."""


def why_not() -> str | None:
    """Why Slurm can't be brought up here, and what to do; None where it can."""
    lacking = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if lacking:
        return f"Slurm is not installed ({', '.join(lacking)}). On Debian or Ubuntu: apt-get install slurm-wlm munge"
    if os.getuid() != 0:
        return "Slurm's daemons start jobs for users and so want root; run this as root"
    for name in ("slurm.conf", "gres.conf"):
        path = FOLDER / name
        if path.exists() and MARK not in path.read_text():
            return f"{path} belongs to a Slurm that is in use, and is left alone; run this on a machine without one"
    if shutil.which("pidof") and subprocess.run(["pidof", "slurmctld"], check=False, capture_output=True).stdout:
        return "a slurmctld is running already; stop it first"
    return None


@dataclass(frozen=True)
class Cluster:
    """The running cluster; ``folder`` holds its state and logs."""

    folder: Path

    def command(self, *arguments: str) -> str:
        """Run one of Slurm's commands; its output."""
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise NoClusterError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job that the controller remembers, with the fields of ``scontrol show job``."""
        text = self.command("scontrol", "--oneliner", "--details", "show", "job")
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if "JobId=" in line]

    def states(self) -> dict[str, str]:
        """State of each node."""
        return dict(line.split() for line in self.command("sinfo", "-hN", "-o", "%N %T").splitlines())

    def processes(self, job_id: str | None = None) -> list[psutil.Process]:
        """Living processes of one job, or of all, told by the environment that the task prolog gave them."""
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            ours = environment.get("IPA_ENERGY_LOCK", "").startswith(f"{self.folder}/")
            if (
                ours
                and process.info["status"] != psutil.STATUS_ZOMBIE
                and job_id in (None, environment["SLURM_JOB_ID"])
            ):
                found.append(process)
        return found

    def kill_processes(self) -> None:
        """Kill all that jobs have left."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def logs(self) -> str:
        """The ends of all daemons' logs, for a failed test."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_configuration(folder: Path, cores: int, memory_mb: int) -> list[Path]:
    controller, *ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory_mb} "
        "Gres=gpu:1 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    text = _CONFIGURATION.format(mark=MARK, host=host, folder=folder, controller=controller, nodes=nodes)
    prolog = folder / "task_prolog"
    prolog.write_text(_TASK_PROLOG.format(folder=folder))
    prolog.chmod(0o755)
    FOLDER.mkdir(exist_ok=True)
    written = {
        FOLDER / "slurm.conf": text,
        FOLDER / "gres.conf": f"{MARK}\nNodeName={','.join(NODES)} Name=gpu Count=1 File=/dev/null\n",
    }
    for path, content in written.items():
        path.write_text(content)
    return list(written)


def _start(stack: ExitStack, folder: Path, name: str, *command: str) -> None:
    """Start the daemon ``name`` in the foreground, to end with this process, or at the end of the stack."""
    log = stack.enter_context(
        (folder / f"{Path(command[0]).name}.{command[-1].strip('/').split('/')[-1]}.out").open("w")
    )
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log, cwd=folder)

    def end() -> None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _start_munge(stack: ExitStack, folder: Path) -> None:
    key = folder / "munge.key"
    subprocess.run(["mungekey", "--create", "--bits", "1024", "--keyfile", str(key)], check=True)
    places = {name: f"{folder}/munge.{name}" for name in ("socket", "log", "pid", "seed")}
    options = [f"--{name}{'' if name == 'socket' else '-file'}={place}" for name, place in places.items()]
    _start(stack, folder, "munged", "munged", "--foreground", "--force", f"--key-file={key}", *options)


@contextmanager
def slurm(folder: Path, cores: int, memory_mb: int) -> Iterator[Cluster]:
    """Bring Slurm up for the block, nodes with so many ``cores`` and so much memory each; all of it is gone afterwards.

    Raises NoClusterError where that can't be.
    """
    reason = why_not()
    if reason:
        raise NoClusterError(reason)
    cluster = Cluster(folder)
    with ExitStack() as stack:
        for path in _write_configuration(folder, cores, memory_mb):
            stack.callback(path.unlink, missing_ok=True)
        stack.callback(cluster.kill_processes)  # what the daemons have lost
        (folder / "state").mkdir()
        _start_munge(stack, folder)
        _wait((folder / "munge.socket").exists, "munge did not come up", cluster)
        _start(stack, folder, "slurmctld", "slurmctld", "-D", "-i")
        for name in NODES:
            _start(stack, folder, f"slurmd.{name}", "slurmd", "-D", "-N", name)
        _wait(lambda: set(cluster.states().values()) == {"idle"}, "the nodes did not come up", cluster)
        try:
            yield cluster
        finally:
            subprocess.run(["scancel", "--full", "--user", "root"], check=False, timeout=60)
            _wait(lambda: not cluster.command("squeue", "-h"), "jobs did not end", cluster)


def _wait(condition: Callable[[], bool], what: str, cluster: Cluster, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if condition():
                return
        except NoClusterError:
            pass  # the controller does not answer yet
        time.sleep(0.2)
    raise NoClusterError(f"{what} in {timeout_s:g} s:\n{cluster.logs()}")


if __name__ == "__main__":  # says whether Slurm can be brought up here
    reason = why_not()
    if reason:
        sys.exit(f"Slurm can't be brought up here: {reason}")
