"""``python -m ipa_energy.slices``: measure a study in slices of time, on machines that are to be had for minutes.

Each slice takes up what an archive holds, runs the workflow until its time is up (or SIGTERM says so), lets the
measurement in hand end, and puts everything into the archive again: records, traces, profile, plan, frames, and what
Snakemake knows of them. So the next slice measures only what is missing, on any machine, in any checkout.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from ipa_energy import ipa_config
from ipa_energy.files import atomic_path
from ipa_energy.layout import record_path
from ipa_energy.study import ConfigError, Study, load_study

BOOKKEEPING = Path(".snakemake/metadata")
"""What Snakemake noted of each output: without it a change of settings between two slices would go unnoticed."""

_POLL_S = 0.2


def unpack(archive: str | Path) -> int:
    """Put the files of ``archive`` in their places below the working folder; the number of those that were not there.

    A file that exists stays as it is: what was measured here is newer than what an archive holds. Raises
    tarfile.TarError for an archive that is damaged or names places outside the folder.
    """
    added = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir() or not Path(member.name).exists():
                tar.extract(member, filter="data")
                added += not member.isdir()
    return added


def pack(archive: str | Path, study: Study) -> None:
    """Write ``archive`` anew, atomically, with all results of the study.

    Histories cost nothing: they are hard links, which the archive keeps. Raises OSError where it can't be written.
    """
    with atomic_path(archive) as temporary, tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
        for folder in (Path("results", study.experiment), BOOKKEEPING):
            if folder.exists():
                tar.add(folder, filter=lambda member: None if member.name.endswith(".part") else member)


def measured(study: Study) -> tuple[int, int]:
    """How many measurements of the plan have a record, and how many the plan has."""
    there = sum(Path(record_path(study.experiment, *m.key)).exists() for m in study.plan)
    return there, len(study.plan)


def wanted(study: Study) -> list[str]:
    """The files that only measuring can give, from which every table and figure is made later."""
    folder = f"results/{study.experiment}"
    return [f"{folder}/measurements.csv", *([f"{folder}/profile.csv"] if ipa_config.wanted(study.settings) else [])]


def run_until(command: Sequence[str], deadline_s: float, grace_s: float, say: Callable[[str], None]) -> int:
    """Run the workflow until ``deadline_s`` (monotonic); its exit code.

    Then, or at a SIGTERM to us, it is told to stop, which lets the job in hand end; after ``grace_s`` more it is
    killed, and the measurement in hand is lost: its processes end with the workflow, no record is half written.
    """
    terminated = threading.Event()
    usual = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    process = subprocess.Popen(command)
    told_s: float | None = None
    try:
        while process.poll() is None:
            now_s = time.monotonic()
            if told_s is None and (now_s >= deadline_s or terminated.is_set()):
                say("time is up: the measurement in hand ends, then the slice does")
                process.send_signal(signal.SIGTERM)
                told_s = now_s
            if told_s is not None and now_s >= told_s + grace_s:
                say(f"killed: it did not end within {grace_s:.0f} s; the measurement in hand is lost")
                process.kill()
                process.wait()
            time.sleep(_POLL_S)
    finally:
        signal.signal(signal.SIGTERM, usual)
        if process.poll() is None:
            process.kill()
    return process.wait()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ipa_energy.slices", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--configfile", type=Path, required=True, help="the study")
    parser.add_argument("--minutes", type=float, required=True, help="after which nothing new is begun")
    parser.add_argument("--grace-minutes", type=float, default=3.0, help="for what is in hand then (%(default)s)")
    parser.add_argument("--archive", type=Path, required=True, help="a .tar.gz, taken up if it is there, then written")
    parser.add_argument("targets", nargs="*", help="files to make; by default all records and IPA's profile")
    found = parser.parse_args(arguments)
    if found.minutes <= 0 or found.grace_minutes < 0:
        parser.error("--minutes wants more than 0, --grace-minutes 0 or more")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when everything is measured, 3 when a further slice is needed, else 1."""
    began_s = time.monotonic()
    given = _parse(arguments)
    try:
        study = load_study(yaml.safe_load(given.configfile.read_text(encoding="utf-8")))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if given.archive.exists():
        print(f"{given.archive}: {unpack(given.archive)} files taken up", flush=True)
    before, planned = measured(study)
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", str(given.configfile)]
    targets = given.targets or wanted(study)
    try:
        code = run_until(
            [*command, "--", *targets],
            began_s + 60 * given.minutes,
            60 * given.grace_minutes,
            lambda text: print(text, flush=True),
        )
    finally:
        pack(given.archive, study)
    after, _ = measured(study)
    took_s = time.monotonic() - began_s
    print(f"{study.experiment}: {after} of {planned} records, {after - before} of them new, in {took_s / 60:.1f} min")
    print(f"kept in {given.archive} ({given.archive.stat().st_size / 1e6:.1f} MB)")
    if all(Path(target).exists() for target in targets) and code == 0:
        return 0
    if after < planned:
        print("Run the same command again to go on.")
    return 3 if after > before else 1


if __name__ == "__main__":
    sys.exit(main())
