"""The table of a measured profile: from the files that the profiler left to the rows that IPA works with.

Every allocation and batch size of every variant is a row, those without figures too, with the reason. Energy of a batch
is *net of the loaded, waiting replica*, whose own power above the bare host is ``idle_w``: with both, the energy of any
pipeline and any number of replicas can be put together (:mod:`.options`). A null is never filled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ipa_energy.ipa.profile import Profile, make_profile, read_profile
from ipa_energy.ipa.profile_table import COLUMNS, ProfileError
from ipa_energy.profile_record import DISTRIBUTION, MEMORY, Entry, read_profile_file

_MB = 1e6

MORE_COLUMNS = {
    "state": "`ok`, `failed` or `not_run`.",
    "reason": "Why there are no figures.",
    "flags": "Flags of the quality gates, joined by `;`.",
    "tries": "1 plus the disturbed tries before.",
    **{f"batch_{name}": "Of the time of a full batch in the replica." for name in DISTRIBUTION if name != "n"},
    "batches": "Full batches in the window.",
    "window_s": "Length of the window, in s.",
    "utilisation": "Share of the window in which the replica was busy.",
    "gross_w": "Power in the window, in W.",
    "net_uncertainty_j": "Standard uncertainty, by the meters, of the energy of a batch above the bare host, in J.",
    "meters": "What the energies hold, `domain:meter` of each part.",
    "host": "Where it was measured.",
    "weights": "Kind of weights that ran.",
    **dict.fromkeys(MEMORY, "Memory of the replica after the window."),
}
"""Columns of the table of everything that was measured, beside those of a profile."""


def measured_table(paths: Iterable[str | Path], gpu_share: float) -> pd.DataFrame:
    """All rows of the profiler's ``paths``, in pipeline order as given; columns of a profile, then MORE_COLUMNS.

    ``gpu_share`` is what a replica on a GPU is charged with. Raises ProfileFileError for a file that is none.
    """
    rows = [_row(entry, gpu_share) for path in paths for entry in read_profile_file(path)]
    return pd.DataFrame(rows, columns=[*COLUMNS, *MORE_COLUMNS])


def usable(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows with figures, in the columns of a profile, and remarks on those that have none or are flagged.

    Without waiting power in some row, it is left out of all, as energies would not hold the same. Waiting power below
    0, which is scatter, counts as 0: with it, decisions would start replicas to save energy. Raises ProfileError for a
    stage without a row that can be used, as what is left would be another pipeline.
    """
    good = table[table["state"] == "ok"]
    for stage in table["stage"].unique():
        if stage not in set(good["stage"]):
            reasons = "; ".join(dict.fromkeys(map(str, table.loc[table["stage"] == stage, "reason"])))
            raise ProfileError(
                f"no variant of stage {stage} has figures ({reasons}): profile/{stage}.*.json has the records; "
                f"mend that and delete these files, or take the variants out of the grid"
            )
    remarks = [
        f"{_name(row)} is left out: {row['state']}, {row['reason']}"
        for _, row in table[table["state"] != "ok"].iterrows()
    ]
    remarks += [
        f"{len(rows)} of {len(good)} rows are flagged {flags}; profile/measured.csv has them"
        for flags, rows in good.groupby("flags", sort=True)
    ]
    silent = good[good["energy_j"].isna()]
    if 0 < len(silent) < len(good):
        remarks += [
            f"{_name(row)} has no energy: IPA can't weigh energy in this profile" for _, row in silent.iterrows()
        ]
    made = good[list(COLUMNS)].dropna(axis="columns", how="all").reset_index(drop=True)
    if "idle_w" in made.columns and made["idle_w"].isna().any():
        remarks.append("idle_w is unknown in some rows and is left out of all")
        made = made.drop(columns="idle_w")
    if "idle_w" in made.columns:
        for (stage, variant, cores), rows in made[made["idle_w"] < 0].groupby(
            ["stage", "variant", "cores"], sort=False
        ):
            least = rows["idle_w"].min()
            remarks.append(
                f"idle_w of {stage}/{variant}, {cores} cores, is {least:.3g} W, taken as 0: waiting gives nothing back"
            )
        made["idle_w"] = made["idle_w"].clip(lower=0.0)
    return made, remarks


def whole_profile(files: Sequence[str | Path], ipa: Mapping[str, Any]) -> tuple[pd.DataFrame, Profile, list[str]]:
    """Everything there is, the profile of what can be used of it, and remarks; before any base allocation.

    ``files`` are the profiler's, or the one that the config's section ``ipa`` names. Raises ProfileError.
    """
    if ipa["profile"] is not None:
        profile = read_profile(files[0])
        return profile.table, profile, []
    table = measured_table(files, ipa["gpu_share"])
    rows, remarks = usable(table)
    return table, make_profile(rows), remarks


def _name(row: pd.Series[Any]) -> str:
    return f"{row['stage']}/{row['variant']}, {row['cores']} cores, batch {row['batch']}"


def _row(entry: Entry, gpu_share: float) -> dict[str, Any]:
    record = entry.record
    configuration = record["identity"]["configuration"]
    (knobs,) = configuration["stages"]
    accuracy = record["accuracy"]["stages"][knobs["stage"]]
    row: dict[str, Any] = {
        "stage": knobs["stage"],
        "variant": knobs["variant"],
        "accuracy": accuracy["value"],
        "metric": accuracy["metric"],
        "cores": knobs["threads"],
        "gpu_share": gpu_share if configuration["platform"]["device"] == "cuda" else 0.0,
        "batch": knobs["batch"],
        "source": "measured",
        "state": record["status"]["state"],
        "reason": record["status"]["reason"],
        "tries": 1 + len(record["earlier_tries"]),
        "host": record["provenance"]["host"],
        "weights": (record["provenance"]["weights"] or {}).get("weights"),
    }
    if entry.service_s is None or record["service"] is None or not record["service"]["completed"]:
        if row["state"] == "ok":
            row |= {"state": "failed", "reason": "no full batch ended in the window: make protocol.window_s longer"}
        return row
    service = record["service"]
    flags = ";".join(dict.fromkeys(flag["flag"] for flag in record["quality"]["flags"]))
    row |= {f"batch_{name}": entry.service_s[name] for name in DISTRIBUTION if name != "n"}
    row |= {
        "latency_mean_s": entry.service_s["mean_s"],
        "latency_p99_s": entry.service_s["p99_s"],
        "throughput_rps": service["throughput_rps"],
        "flags": flags or None,
        "batches": int(entry.service_s["n"]),
        "window_s": record["window"]["duration_s"],
        "utilisation": service["stages"][knobs["stage"]]["utilisation"],
    }
    if entry.memory is not None:
        row |= entry.memory
        known = [entry.memory[name] for name in ("uss_bytes", "gpu_bytes") if entry.memory[name] is not None]
        row["memory_mb"] = sum(known) / _MB if known else None  # type: ignore[arg-type]
    return row | _energy(record, service["completed"] / knobs["batch"])


def _energy(record: Mapping[str, Any], batches: float) -> dict[str, Any]:
    """Energy of a batch above the waiting replica, that replica's power above the bare host, and the host's own."""
    energy, window_s = record["energy"], record["window"]["duration_s"]
    resident_w = _mean(energy["idle_resident_w"], energy["idle_after_w"])
    bare_w = _mean(energy["idle_bare_w"], energy["idle_bare_after_w"])
    found: dict[str, Any] = {
        "gross_w": energy["mean_w"],
        "host_idle_w": bare_w,
        "meters": " + ".join(sorted(f"{d['domain']}:{d['meter']}" for d in energy["domains"])) or None,
    }
    if energy["mean_w"] is None or resident_w is None:
        return found
    found |= {
        "energy_j": (energy["mean_w"] - resident_w) * window_s / batches,
        "energy_kind": "net",
        "evidence": energy["evidence"],
        "idle_w": None if bare_w is None else resident_w - bare_w,
    }
    uncertainty_j = energy["net_uncertainty_j"]
    found["net_uncertainty_j"] = None if uncertainty_j is None else uncertainty_j / batches
    return found


def _mean(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
