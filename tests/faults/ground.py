"""Where faults happen: a checkout with a tiny plan, and runs of the real Snakemake in it that can be told from others.

Every run carries a mark in its environment, which all its processes inherit, whatever they detach themselves from. The
checkout has a lock, a journal and a folder for temporary files of its own, so that whatever is left behind shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from conftest import Checkout, make_checkout
from ipa_energy.layout import record_path
from ipa_energy.study import load_study
from tiny import PROTOCOL, wait_for

MARK = "IPA_ENERGY_FAULTS"
TABLES = "results/tiny/measurements.csv"
"""The end of a run that makes no verdict and no figures: what is measured is all there, and is read."""
PATIENCE_S = 400.0

QUICK = PROTOCOL | {
    "idle_bare_s": 0.1,
    "idle_resident_s": 0.1,
    "idle_after_s": 0.1,
    "idle_bare_after_s": 0.1,
    "warm_up_max_s": 2,
    "window_s": 0.5,
}


@dataclass(frozen=True)
class Ended:
    """A run that ended: its exit code, everything that it printed, and how long it took."""

    code: int
    output: str
    duration_s: float


@dataclass
class Ground:
    """A checkout, and the runs in it. ``prefix`` starts every run, such as in a mount namespace of its own."""

    checkout: Checkout
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.checkout.folder

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def mark(self) -> str:
        return str(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        return self.checkout.environment | {"TMPDIR": str(self.temporary), MARK: self.mark} | dict(self.variables)

    def lay_out(self, blocks: int = 3, **changes: object) -> None:
        """Clear everything that earlier runs left, and write the config: one configuration, ``blocks`` measurements."""
        for name in ("results", "logs", ".snakemake", "tmp", "journal", "other"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (self.checkout.lock.name, ".lost"):
            (self.folder / name).unlink(missing_ok=True)
        self.temporary.mkdir()
        protocol = QUICK | changes.pop("protocol", {})  # type: ignore[operator]
        self.checkout.configure(blocks=blocks, protocol=protocol, **changes)

    def planned(self) -> list[Path]:
        """Where the records of the plan belong."""
        study = load_study(yaml.safe_load((self.folder / "tiny.yaml").read_text()))
        return [self.folder / record_path(study.experiment, *m.key) for m in study.plan]

    def start(self, *arguments: str, target: str = TABLES, config: str = "tiny") -> Run:
        """Start the workflow in the background."""
        log = self.folder / "run.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                self.checkout.command(*arguments, target, config=config),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(self, process, log, time.monotonic())

    def run(self, *arguments: str, target: str = TABLES, config: str = "tiny") -> Ended:
        return self.start(*arguments, target=target, config=config).wait()

    def unlock(self) -> Ended:
        return self.run("--unlock")

    def processes(self) -> list[psutil.Process]:
        """Every living process of any run of this checkout."""
        return [p for p in psutil.process_iter() if _marked(p, self.mark)]

    def wait_until_quiet(self, timeout_s: float = 15.0) -> list[str]:
        """The processes that are still there after ``timeout_s``, in words; none as soon as all are gone."""
        try:
            wait_for(lambda: not self.processes(), timeout_s)
        except TimeoutError:
            return [in_words(process) for process in self.processes()]
        return []


@dataclass
class Run:
    """A run that goes on."""

    ground: Ground
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, timeout_s: float = PATIENCE_S) -> Ended:
        """Its end. Raises TimeoutExpired, after it was killed."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return Ended(self.process.returncode, self.output(), time.monotonic() - self.started_s)

    def wait_for_record(self, count: int = 1) -> None:
        """Until so many records are there. Raises RuntimeError where the run ends before, or takes too long."""
        try:
            wait_for(lambda: len(self.ground.checkout.records()) >= count or self.ended(), PATIENCE_S)
        except TimeoutError:
            self.kill()
        if len(self.ground.checkout.records()) < count:
            raise RuntimeError(f"an undisturbed run made no record: {self.output()[-3000:]}")

    def kill(self) -> None:
        """End it and all that belongs to it, by process id."""
        for process in [psutil.Process(self.process.pid), *self.ground.processes()] if not self.ended() else []:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def make_ground(folder: Path, **variables: str) -> Ground:
    return Ground(make_checkout(folder), variables)


def in_words(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:160]}"
    except psutil.Error:
        return f"{process.pid}"


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        ours = f"{MARK}={mark}".encode() in environment.split(b"\0")
        return ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False
