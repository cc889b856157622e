"""From the meters' readings to the ``energy`` section of a record: domains, totals, gross and net, with uncertainties.

A meter has its own window edges (it may wait for its counter to tick), so its figure is turned into mean power first
and then into energy over the service window: ``gross_j = mean_w x window``. That holds in the steady state which the
gates check. Net energy is gross less *bare* idle power times the window: what the models' presence costs belongs to the
pipeline. Bare idle power is the mean of the phases before and after. A total is the sum over domains, each counted
once; it is None as soon as one part of the system under test has no figure, because a sum with a part missing is not an
energy of anything.

Uncertainties are standard ones (k = 1). Those of gross are the meter's own parts. In net a constant offset of the
sensor cancels, gain and model errors shrink with the difference, and the idle baseline comes in: scatter of its samples
and half the change from before to after, taken as rectangular.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ipa_energy.meters.base import Check, Domain, Energy
from ipa_energy.meters.recorder import WindowReading
from ipa_energy.record import finite

NOT_INSIDE = "Not included: fans, power supply losses, disks, network."
PROPORTIONAL = ("gain", "model")
"""Parts of the uncertainty that grow with the energy itself."""
COMMON = ("offset",)
"""Parts that a difference of two powers of one sensor does not have."""
IDLE_PHASES = ("bare", "resident", "after", "bare_after")


@dataclass(frozen=True, slots=True)
class Idle:
    """Mean power of one domain in one idle phase (W), and its standard error from the samples; None where unknown."""

    mean_w: float | None = None
    standard_error_w: float | None = None


def idle_figure(reading: WindowReading | None, domain: str) -> Idle:
    """Idle power of ``domain``; all None for a phase that was left out or has no figure.

    The standard error is s/√n over the sampled powers. A value that repeats counts once, because a sensor that has not
    been updated between two samples has said nothing new.
    """
    if reading is None:
        return Idle()
    energy = next((e for e in reading.energies if e.domain == domain), None)
    powers_w = [power_w for power_w, _ in groupby(s.power_w for s in reading.samples if s.domain == domain)]
    error_w = statistics.stdev(powers_w) / math.sqrt(len(powers_w)) if len(powers_w) > 1 else None
    return Idle(None if energy is None else energy.mean_w, error_w)


def baseline(idle: Mapping[str, Idle]) -> Idle:
    """Bare idle power for the whole measurement: mean of before and after where both were measured.

    Its standard error holds the scatter within the phases and, with both, the drift between them: half their
    difference as the half-width of a rectangular distribution. None where a phase showed no scatter
    that an error could be told from.
    """
    phases = [idle[name] for name in ("bare", "bare_after") if idle[name].mean_w is not None]
    means_w = [phase.mean_w for phase in phases if phase.mean_w is not None]
    if not means_w:
        return Idle()
    mean_w = statistics.fmean(means_w)
    errors_w = [phase.standard_error_w for phase in phases if phase.standard_error_w is not None]
    if len(means_w) == 1:
        return Idle(mean_w, errors_w[0] if errors_w else None)
    if len(errors_w) < len(phases):  # an unknown scatter is not none
        return Idle(mean_w)
    drift_w = abs(means_w[1] - means_w[0]) / 2 / math.sqrt(3)
    return Idle(mean_w, math.hypot(drift_w, *(error_w / 2 for error_w in errors_w)))


def _check(check: Check, window: Energy, window_s: float) -> dict[str, Any]:
    check_s = window.end_s - window.begin_s if check.window_s is None else check.window_s
    check_w = None if check.energy_j is None or check_s <= 0 else check.energy_j / check_s
    mean_w = window.mean_w
    return {
        "method": check.method,
        "gross_j": finite(None if check_w is None else check_w * window_s),
        "ratio": finite(None if not check_w or mean_w is None else mean_w / check_w),
        "reason": check.reason or ("the second figure is 0 J" if check_w == 0 else None),
    }


def _gross_parts_j(window: Energy, window_s: float) -> dict[str, float]:
    own_s = window.end_s - window.begin_s
    if window.energy_j is None or own_s <= 0:
        return {}
    return {name: part_j / own_s * window_s for name, part_j in window.uncertainty.items()}


def _net_parts_j(gross_parts_j: Mapping[str, float], gross_j: float, net_j: float, idle_j: float) -> dict[str, float]:
    shrinks = abs(net_j / gross_j) if gross_j else 1.0
    parts_j = {
        name: part_j * (shrinks if name in PROPORTIONAL else 1.0)
        for name, part_j in gross_parts_j.items()
        if name not in COMMON
    }
    return parts_j | {"idle": idle_j}


def _combined(parts_j: Mapping[str, float]) -> float | None:
    return finite(math.hypot(*parts_j.values())) if parts_j else None


def domain_section(
    meter: str,
    domain: Domain,
    window: Energy,
    idle: Mapping[str, Idle],
    window_s: float,
    opinions: Iterable[Check] = (),
) -> dict[str, Any]:
    """One entry of ``energy.domains``.

    ``idle`` holds the phases :data:`IDLE_PHASES`; ``opinions`` are checks by other meters, beside the meter's own.
    """
    mean_w = window.mean_w
    gross_j = None if mean_w is None else mean_w * window_s
    bare = baseline(idle)
    net_j = None if gross_j is None or bare.mean_w is None else gross_j - bare.mean_w * window_s
    gross_parts_j = _gross_parts_j(window, window_s)
    net_parts_j: dict[str, float] = {}
    if gross_j is not None and net_j is not None and bare.standard_error_w is not None and gross_parts_j:
        net_parts_j = _net_parts_j(gross_parts_j, gross_j, net_j, bare.standard_error_w * window_s)
    reason = window.reason
    if reason is None and gross_j is not None and bare.mean_w is None:
        reason = "net energy is null: there is no bare idle baseline"
    return {
        "domain": domain.name,
        "meter": meter,
        "covers": domain.covers,
        "method": domain.method,
        "evidence": domain.evidence,
        "gross_j": finite(gross_j),
        "net_j": finite(net_j),
        "mean_w": finite(mean_w),
        "idle_bare_w": finite(idle["bare"].mean_w),
        "idle_resident_w": finite(idle["resident"].mean_w),
        "idle_after_w": finite(idle["after"].mean_w),
        "idle_bare_after_w": finite(idle["bare_after"].mean_w),
        "window_s": finite(max(0.0, window.end_s - window.begin_s)),
        "period_s": domain.period_s,
        "uncertainty_j": _combined(gross_parts_j),
        "net_uncertainty_j": _combined(net_parts_j),
        "uncertainty_parts_j": gross_parts_j,
        "net_uncertainty_parts_j": net_parts_j,
        "checks": [_check(check, window, window_s) for check in (*window.checks, *opinions)],
        "boundary": domain.boundary,
        "reason": reason,
    }


def _sum(domains: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [d[key] for d in domains]
    return None if not values or any(v is None for v in values) else float(sum(values))


def _quadrature(domains: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [d[key] for d in domains]
    return None if not values or any(v is None for v in values) else math.hypot(*values)


def evidence_of(domains: Sequence[Mapping[str, Any]]) -> str:
    """``measured``, ``estimated``, or ``mixed`` where the total adds both; ``none`` without any domain."""
    kinds = {d["evidence"] for d in domains}
    return "none" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


def energy_section(
    domains: Sequence[dict[str, Any]],
    unavailable: Sequence[tuple[str, str]],
    needed: Collection[str],
    completed: int,
) -> dict[str, Any]:
    """The ``energy`` section over all counted ``domains``; without the parts of the machine ``needed`` no total."""
    covered = {d["covers"] for d in domains}
    reasons = [f"{d['domain']}: {d['reason']}" for d in domains if d["gross_j"] is None]
    reasons += [f"no meter covers the {part}, which belongs to the total" for part in sorted(set(needed) - covered)]
    complete = not reasons
    totals = {
        key: _sum(domains, key) if complete else None
        for key in (
            *("gross_j", "net_j", "mean_w"),
            *("idle_bare_w", "idle_resident_w", "idle_after_w", "idle_bare_after_w"),
        )
    }
    if complete and totals["net_j"] is None:
        reasons += [f"{d['domain']}: {d['reason']}" for d in domains if d["net_j"] is None]
    if completed == 0:
        reasons.append("energy per request is null: no request was completed in the window")
    inside = "; ".join(f"{d['boundary']} ({d['evidence']})" for d in domains) or "nothing"
    missing = [f"the {part}" for part in ("cpu", "dram", "gpu") if part not in covered]
    outside = f" Without a figure: {', '.join(missing)}." if missing else ""
    estimated_j = [d["gross_j"] for d in domains if d["evidence"] == "estimated"]
    return {
        "evidence": evidence_of(domains),
        "estimated_fraction": sum(estimated_j) / totals["gross_j"] if totals["gross_j"] else None,
        **totals,
        "gross_j_per_request": _per(totals["gross_j"], completed),
        "net_j_per_request": _per(totals["net_j"], completed),
        "uncertainty_j": _quadrature(domains, "uncertainty_j") if complete else None,
        "net_uncertainty_j": _quadrature(domains, "net_uncertainty_j") if complete else None,
        "boundary": f"Included: {inside}.{outside} {NOT_INSIDE}",
        "domains": list(domains),
        "unavailable": [{"meter": meter, "reason": reason} for meter, reason in unavailable],
        "reason": "; ".join(reasons) or None,
    }


def _per(energy_j: float | None, requests: int) -> float | None:
    return None if energy_j is None or requests == 0 else energy_j / requests
