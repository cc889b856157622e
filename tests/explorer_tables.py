"""Tables of known content for the explorer: two workloads, one with estimated energy, and gaps of every kind."""

from pathlib import Path

import numpy as np

from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.analysis.cells import CELL
from ipa_energy.analysis.tables import measurements_table
from ipa_energy.explorer.build import explorer_html
from ipa_energy.record import Reading
from synthetic_records import PRICES, synthetic_study, video_grid

INPUTS = {"slow": {"rate_rps": 2, "sla_s": 0.2}, "open": {"rate_rps": 5, "sla_s": None}}
FIGURES = ("window", "service", "accuracy", "energy", "quality")
HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"><b>bold</b>"


def measured(blocks=2, lost=False):
    """A measurements table: `saturated` measured, `rate` estimated; one failed record, one without net energy.

    With ``lost``, every record failed.
    """
    grid = video_grid(batches=(1, 4))
    records = []
    for workload, evidence in (("saturated", "measured"), ("rate", "estimated")):
        records += synthetic_study("independent", grid, blocks=blocks, workloads=[workload], evidence=evidence)
    for record in records if lost else records[3:4]:
        record.update({"status": {"state": "failed", "reason": "out of memory"}} | dict.fromkeys(FIGURES))
    table = measurements_table(Reading(tuple((Path(f"{i}.json"), r) for i, r in enumerate(records)), ()), PRICES)
    bare = table["configuration"] == grid[0].id
    table.loc[bare & (table["workload"] == "saturated"), ["net_j", "net_j_per_request"]] = np.nan
    return table


def with_paths(table, folder):
    """The table with a file below ``folder`` for each record, but for those of block 2, which lie elsewhere."""
    parts = zip(table["workload"], table["configuration"], table["repetition"], strict=True)
    paths = [
        Path("/elsewhere" if name == "block2" else folder) / "records" / load / configuration / f"{name}.json"
        for load, configuration, name in parts
    ]
    for path in paths:
        if folder in path.parents:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    return table.assign(path=list(map(str, paths)))


def members(configurations):
    """A membership table with probabilities that can be told apart by configuration; none for gross energy."""
    rows = configurations[["configuration", *CELL]].assign(energy="net", evidence=configurations["evidence"])
    share = np.linspace(0, 0.5, len(rows))
    rows = rows.assign(front_without=0, front_with=1, p_front_without=share, p_front_with=share + 0.5)
    return rows.assign(p_only_with=0.125, gain=0.25, gain_lo=0.2, gain_hi=np.nan, only_with="yes", reason=None)


def page(folder, measurements=None, configurations=None, membership=None, **settings):
    """Write explorer.html into ``folder``; returns its path, and the configurations it was made from."""
    measurements = measured() if measurements is None else measurements
    if configurations is None:
        configurations = configurations_table(measurements, 0.95, [])
    settings = {"title": "A study", "inputs": INPUTS, "limitations": ["One host."], "confidence": 0.95} | settings
    text = explorer_html(configurations, measurements, membership, folder=folder, **settings)
    path = folder / "explorer.html"
    path.write_text(text, encoding="utf-8")
    return path, configurations
