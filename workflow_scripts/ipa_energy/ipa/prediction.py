"""What IPA predicts of measured configurations from a profile of their stages alone: IPA's formulas over records.

A profile and rows of the measurements table go in; for every row come out the figures of :data:`METRICS` as composed
from the stages, or null with the reason. These are the formulas of :mod:`.options`, taken at the load of each row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ipa_energy import ipa_config
from ipa_energy.configuration import Platform
from ipa_energy.ipa.profile import Profile, StageProfile
from ipa_energy.ipa.profile_table import ProfileError
from ipa_energy.ipa.ticks import Floats, Ints

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "throughput_rps": "throughput",
        "service_s": "time in service",
        "latency_mean_s": "mean latency",
        "latency_p99_s": "p99 latency",
        "net_j_per_request": "net energy per request",
        "gross_j_per_request": "gross energy per request",
    }
)
"""What is composed, and what it is called. ``service_s`` is the sum over the stages of the mean time of a batch."""

ENERGIES = ("net_j_per_request", "gross_j_per_request")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of rows of the measurements table; both frames have its index and the columns :data:`METRICS`.

    ``figures`` holds numbers, NaN where there is no prediction; ``reasons`` why there is none, None where there is one.
    """

    figures: pd.DataFrame
    reasons: pd.DataFrame


def profile_platform(ipa: Mapping[str, Any], platforms: Mapping[str, Any]) -> Platform | None:
    """What the profile was measured on, by the config's ``ipa`` and ``grid.platform``; None for a user's file."""
    if ipa["profile"] is not None:
        return None
    return ipa_config.platform({"ipa": ipa, "grid": {"platform": platforms}})


def profile_rows(
    profile: Profile, records: pd.DataFrame, platform: Platform | None = None
) -> tuple[Ints, list[str | None]]:
    """The profile's rows of each record's stages, shape (records, stages), and why a record has none, or None.

    ``platform`` is what the profile was measured on; where it is not known (None), a profile with GPU shares is taken
    to be of a GPU. Rows of records with a reason are -1.
    """
    rows = np.full((len(records), len(profile.stages)), -1, dtype=np.int64)
    reasons: list[str | None] = [_elsewhere(record, platform) for record in records.to_dict("records")]
    strange = _strange_stages(profile, records)
    for number, stage in enumerate(profile.stages):
        known = _by_knobs(stage)
        columns = [records.get(f"{stage.stage}.{knob}") for knob in ("variant", "threads", "batch")]
        if any(column is None for column in columns):
            reasons = [reason or f"there is no stage {stage.stage} in it" for reason in reasons]
            continue
        for at, (variant, threads, batch, device) in enumerate(zip(*columns, records["device"], strict=True)):  # type: ignore[arg-type]
            if reasons[at] is not None:
                continue
            if strange[at] is not None or pd.isna(variant):
                reasons[at] = strange[at] or f"there is no stage {stage.stage} in it"
                continue
            found = known.get((variant, int(threads), int(batch), device == "cuda"), [])
            where = f"{stage.stage}/{variant} on {device}, threads {threads}, batch {batch}"
            if len(found) == 1:
                rows[at, number] = found[0]
            else:
                reasons[at] = f"{where} is not in the profile" if not found else f"{where} has several GPU shares"
    rows[[reason is not None for reason in reasons]] = -1
    return rows, reasons


def _elsewhere(record: Mapping[Any, Any], platform: Platform | None) -> str | None:
    if platform is None:
        return None
    measured = (record["device"], record["precision"])
    if measured == (platform.device, platform.precision):
        return None
    return f"measured on {' in '.join(map(str, measured))}, profiled on {platform.device} in {platform.precision}"


def _strange_stages(profile: Profile, records: pd.DataFrame) -> list[str | None]:
    """The stage of each record that the profile doesn't have, in words, or None."""
    known = {stage.stage for stage in profile.stages}
    strange: list[str | None] = [None] * len(records)
    for column in records.columns:
        stage, _, knob = str(column).rpartition(".")
        if knob == "variant" and stage not in known:
            for at in np.flatnonzero(records[column].notna()):
                strange[at] = f"stage {stage} is not in the profile"
    return strange


def _by_knobs(stage: StageProfile) -> dict[tuple[str, int, int, bool], list[int]]:
    """Rows by variant, cores, batch, and whether the replica has a share of a GPU."""
    found: dict[tuple[str, int, int, bool], list[int]] = {}
    for row, (variant, cores, batch, share) in enumerate(
        zip(stage.variant.tolist(), stage.cores.tolist(), stage.batch.tolist(), stage.gpu_share.tolist(), strict=True)
    ):
        found.setdefault((stage.variants[variant], cores, batch, share > 0), []).append(row)
    return found


def predict(profile: Profile, records: pd.DataFrame, platform: Platform | None = None) -> Predictions:
    """Predict the figures of ``records``, rows of the measurements table with a service section.

    Throughput is the least of the stages' n h(b), and under an open load no more than the rate that was offered.
    Latency under an open load is IPA's model, the sum of l(b) + (b - 1) / rate (equation 9 of the paper), of means or
    of 99th percentiles, and null where a stage can't keep up; in a closed loop the mean is that of Little's law, the
    requests in flight over the throughput, and there is no 99th percentile. Energy per request is the sum over the
    stages of e(b) / b + n P / rate, net of the bare host, at the predicted throughput; gross adds the power of the
    bare host over it. Null without waiting power P, since what was measured holds it.
    """
    rows, lacking = profile_rows(profile, records, platform)
    reasons = pd.DataFrame(dict.fromkeys(METRICS, lacking), index=records.index, dtype="object")
    figures = pd.DataFrame(np.nan, index=records.index, columns=list(METRICS))
    known = np.array([reason is None for reason in lacking], dtype=bool)
    if known.any():
        figures[known], reasons[known] = _predict(profile, records[known], rows[known])
    return Predictions(figures, reasons)


_LATE = "a stage can't keep up with the offered rate, and IPA has no latency for that"
_CLOSED = "IPA's latency is that of an open load, and of a closed loop only the mean follows, by Little's law"
_NO_LOOP = "the closed loop does not say how many requests it keeps in flight (in_flight_per_batch)"
_SILENT = "no request was offered in the window"
_SOME_ENERGY = "the profile has no energy (energy_j) of some stage here"

_Told: TypeAlias = NDArray[np.object_]
"""Why there is no figure, or None where there is one; shape (records,)."""


def _predict(profile: Profile, records: pd.DataFrame, rows: Ints) -> tuple[pd.DataFrame, pd.DataFrame]:
    taken = list(zip(profile.stages, rows.T, strict=True))
    loads = _loads(records["workload_settings"])
    is_open = np.array([load.get("kind") == "rate" for load in loads], dtype=bool)
    per_batch = np.array([load.get("in_flight_per_batch", np.nan) for load in loads], dtype=float)
    batch, replicas = (
        np.column_stack([records[f"{stage.stage}.{knob}"].to_numpy(dtype=float) for stage, _ in taken])
        for knob in ("batch", "replicas")
    )
    offered_rps = records["offered_rps"].to_numpy(dtype=float)
    capacity_rps = np.min(np.column_stack([s.throughput_rps[row] for s, row in taken]) * replicas, axis=1)
    throughput_rps = np.where(is_open, np.minimum(offered_rps, capacity_rps), capacity_rps)
    # As the engine does it: serving.arrivals.make_workload.
    in_flight = np.maximum(1, np.rint(per_batch * (batch * replicas).sum(axis=1)))
    silent = is_open & ~(offered_rps > 0)
    late = is_open & (offered_rps > capacity_rps)
    with np.errstate(divide="ignore", invalid="ignore"):
        queue_s = ((batch - 1) / offered_rps[:, None]).sum(axis=1)
        service_s, no_mean = _latency_s(taken, "mean")
        p99_s, no_p99 = _latency_s(taken, "p99")
        net_j, no_energy = _net_j_per_request(profile, taken, batch, replicas, throughput_rps)
        host_j, no_host = _host_j_per_request(profile, throughput_rps)
        made: dict[str, tuple[Floats, list[tuple[NDArray[np.bool_] | bool, str | None]]]] = {
            "throughput_rps": (throughput_rps, []),
            "service_s": (service_s, [(True, no_mean)]),
            "latency_mean_s": (
                np.where(is_open, service_s + queue_s, in_flight / throughput_rps),
                [(is_open, no_mean), (late, _LATE), (~is_open & np.isnan(per_batch), _NO_LOOP)],
            ),
            "latency_p99_s": (p99_s + queue_s, [(~is_open, _CLOSED), (True, no_p99), (late, _LATE)]),
            "net_j_per_request": (net_j, [(True, no_energy), (np.isnan(net_j), _SOME_ENERGY)]),
            "gross_j_per_request": (
                net_j + host_j,
                [(True, no_energy), (True, no_host), (np.isnan(net_j), _SOME_ENERGY)],
            ),
        }
    figures, reasons = {}, {}
    for name, (values, against) in made.items():
        told = _first_reason(len(records), [(silent, _SILENT), *against])
        figures[name] = np.where([why is None for why in told], values, np.nan)
        reasons[name] = told
    return pd.DataFrame(figures, index=records.index), pd.DataFrame(reasons, index=records.index, dtype="object")


def _first_reason(count: int, against: list[tuple[NDArray[np.bool_] | bool, str | None]]) -> _Told:
    """For each record the first reason that holds there; pairs of where one holds, and the reason or None."""
    told: _Told = np.full(count, None, dtype=object)
    for where, why in reversed(against):
        if why is not None:
            told[np.broadcast_to(where, count)] = why
    return told


def _loads(settings: pd.Series[str]) -> list[dict[str, Any]]:
    parsed = {text: json.loads(text) for text in settings.unique()}
    return [parsed[text] for text in settings]


def _latency_s(taken: list[tuple[StageProfile, Ints]], kind: str) -> tuple[Floats, str | None]:
    """Sum over the stages of the time of a batch, shape (records,), and why there is none."""
    try:
        return np.sum([stage.latency_s(kind)[row] for stage, row in taken], axis=0), None
    except ProfileError as error:
        return np.full(len(taken[0][1]), np.nan), str(error)


def _net_j_per_request(
    profile: Profile, taken: list[tuple[StageProfile, Ints]], batch: Floats, replicas: Floats, throughput_rps: Floats
) -> tuple[Floats, str | None]:
    """Energy above the bare host, shape (records,), as in :mod:`.options`, and why there is none."""
    nothing = np.full(len(batch), np.nan)
    if profile.energy_kind is None:
        return nothing, "the profile has no energy"
    idle_w = np.column_stack([stage.idle_w[row] for stage, row in taken])
    if np.isnan(idle_w).any():  # a profile has it in all rows or in none
        return nothing, "the profile has no power of waiting replicas (idle_w), which the measured energy holds"
    own_j = np.column_stack([stage.energy_j[row] for stage, row in taken]) / batch
    if profile.energy_kind == "gross":
        own_j = own_j - idle_w / np.column_stack([stage.throughput_rps[row] for stage, row in taken])
    return np.asarray(own_j.sum(axis=1) + (replicas * idle_w).sum(axis=1) / throughput_rps, dtype=float), None


def _host_j_per_request(profile: Profile, throughput_rps: Floats) -> tuple[Floats, str | None]:
    """What the bare host adds to a request, in J, shape (records,), and why it is not known."""
    if profile.host_idle_w is None:
        return np.full(len(throughput_rps), np.nan), "the profile has no power of the bare host (host_idle_w)"
    return np.asarray(profile.host_idle_w / throughput_rps, dtype=float), None
