"""Which process of a run is which, and what the run is doing at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from .ground import Ground, Run

KINDS = ("workflow", "job", "measuring process", "preload server", "replica")
_SCRIPT = "/.snakemake/scripts/"


@dataclass(frozen=True)
class Seen:
    """The processes of a run at a moment, by kind, and the rules whose jobs run."""

    by_kind: dict[str, list[psutil.Process]]
    rules: tuple[str, ...]


def look(ground: Ground, workflow: int) -> Seen:
    """Tell the processes of the run whose main process is ``workflow``."""
    by_kind: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
    rules = []
    servers: list[int] = []
    preloads: list[psutil.Process] = []
    for process in ground.processes():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        words = " ".join(line)
        if process.pid == workflow:
            by_kind["workflow"].append(process)
        elif "ipa_energy.measurement" in words:
            by_kind["measuring process"].append(process)
        elif "ipa_energy.serving.preload" in words:
            preloads.append(process)
            servers.append(process.pid)
        elif len(line) > 1 and _SCRIPT in line[1]:
            by_kind["job"].append(process)
            rules.append(Path(line[1]).name.split(".", 1)[1].removesuffix(".py"))
    for process in preloads:
        try:
            replica = process.ppid() in servers
        except psutil.Error:
            continue
        by_kind["replica" if replica else "preload server"].append(process)
    return Seen(by_kind, tuple(sorted(rules)))


def phase(run: Run, seen: Seen) -> str:
    """What the run was doing: the phase of a measurement, else the rule, else Snakemake itself."""
    if "measure_configuration" in seen.rules:
        logs = sorted(run.ground.folder.glob("logs/tiny/measure/**/*.log"), key=lambda path: path.stat().st_mtime_ns)
        lines = [line.split(" ", 1) for line in logs[-1].read_text(errors="replace").splitlines()] if logs else []
        named = [words[1] for words in lines if len(words) == 2 and words[0].replace(".", "", 1).isdigit()]
        child = bool(seen.by_kind["measuring process"])
        if child:
            return f"measuring: {named[-1] if named else 'start'}"
        return "measuring: before" if not named else "measuring: record"
    if seen.rules:
        return f"rule {seen.rules[0]}"
    if "Building DAG" not in run.output():
        return "Snakemake: start"
    return "Snakemake: between jobs"
