"""Records that are damaged in ten ways, among good ones; and a damaged one in the place of the plan."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from . import invariants
from .ground import Ground
from .outcome import Outcome, judged, told


def _changed(record: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> str:
    copy = json.loads(json.dumps(record))
    change(copy)
    return json.dumps(copy)


def damages(good: Path) -> dict[str, Callable[[Path], object]]:
    """What makes a damaged record of a name, each in its own way."""
    record = json.loads(good.read_text())
    text = json.dumps(record)
    return {
        "truncated": lambda path: path.write_text(text[: len(text) // 2]),
        "empty": lambda path: path.write_text(""),
        "binary": lambda path: path.write_bytes(os.urandom(4096)),
        "wrong_version": lambda path: path.write_text(_changed(record, lambda r: r.update(schema_version=99))),
        "not_a_number": lambda path: path.write_text(_changed(record, lambda r: r["energy"].update(gross_j=math.nan))),
        "negative_energy": lambda path: path.write_text(_changed(record, lambda r: r["energy"].update(gross_j=-5.0))),
        "duplicate": lambda path: path.write_text(text),
        "wrong_types": lambda path: path.write_text(_changed(record, lambda r: r.update(window="long"))),
        "link_to_itself": lambda path: path.symlink_to(path.name),
        "folder": lambda path: path.mkdir(),
    }


def damaged_records(ground: Ground) -> Iterator[Outcome]:
    """Ten damaged files among the records of a folder that is analysed; and one in the place of the plan."""
    ground.lay_out()
    ended = ground.run()
    if ended.code != 0:
        raise RuntimeError(f"an undisturbed run failed: {ended.output[-3000:]}")
    study = ground.folder / "other"
    study.mkdir()
    good = ground.checkout.records()
    for path in good:
        (study / f"good.{path.stem}.json").write_bytes(path.read_bytes())
    names = []
    for name, make in damages(good[0]).items():
        make(study / f"{name}.json")
        names.append(name)
    settings = yaml.safe_load((ground.folder / "tiny.yaml").read_text())
    settings |= {"experiment": "damaged", "records": str(study)}
    (ground.folder / "damaged.yaml").write_text(yaml.safe_dump(settings))
    reading = ground.run(target="results/damaged/measurements.csv", config="damaged")
    results = ground.folder / "results" / "damaged"
    problems = [] if reading.code == 0 else [f"the analysis ended with {reading.code}: {reading.output[-1500:]}"]
    refused = (results / "refused.csv").read_text() if reading.code == 0 else ""
    problems += [f"not named in refused.csv: {name}" for name in names if f"{name}.json" not in refused]
    if reading.code == 0:
        with (results / "measurements.csv").open() as file:
            rows = len(list(csv.DictReader(file)))
        problems += [] if rows == len(good) else [f"{rows} rows of {len(good)} good records"]
    saw = f"refused.csv names {sum(f'{name}.json' in refused for name in names)} of {len(names)}: {', '.join(names)}"
    before = invariants.look_before(ground)
    yield judged("10 damaged records", "among good ones of a folder", saw, ground, problems, before)

    victim = good[1]
    text = victim.read_text()
    victim.unlink()
    victim.write_text(text[:400])
    again = ground.run()
    refused = (ground.results / "refused.csv").read_text()
    problems = [] if again.code == 0 else [f"the run ended with {again.code}"]
    problems += [] if victim.name in refused else ["it is not named in refused.csv"]
    problems += [] if "--force" in again.output else ["the message does not say what to do"]
    measured = ground.run("--force", target=str(victim.relative_to(ground.folder)))
    problems += [] if measured.code == 0 else [f"measuring it again ended with {measured.code}"]
    before = invariants.look_before(ground)
    problems += invariants.records_are_whole(ground)
    outcome = judged("damaged record of the plan", "after the run", told(again), ground, problems, before)
    twice = tuple(p for p in outcome.problems if not p.startswith("2 entries in the history"))
    yield Outcome(**vars(outcome) | {"problems": twice, "restart": f"measured again by --force; {outcome.restart}"})
