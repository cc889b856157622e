"""From the meters' readings to the ``energy`` section of a record: domains, totals, gross and net.

A meter has its own window edges (it may wait for its counter to tick), so its figure is turned into mean power first
and then into energy over the service window: ``gross_j = mean_w x window``. That holds in the steady state which the
gates check. Net energy is gross less *bare* idle power times the window: what the models' presence costs belongs to the
pipeline. A total is the sum over domains, each counted once; it is None as soon as one part of the system under test
has no figure, because a sum with a part missing is not an energy of anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.meters.base import Check, Domain, Energy
from ipa_energy.record import finite

NOT_INSIDE = "Not included: fans, power supply losses, disks, network."


def _by_domain(energies: Sequence[Energy]) -> dict[str, Energy]:
    return {e.domain: e for e in energies}


def _check(check: Check | None, energy_j: float | None, own_window_s: float, window_s: float) -> dict[str, Any] | None:
    if check is None:
        return None
    scaled_j = None if check.energy_j is None or own_window_s <= 0 else check.energy_j / own_window_s * window_s
    ratio = None if not check.energy_j or energy_j is None else energy_j / check.energy_j
    return {"method": check.method, "gross_j": finite(scaled_j), "ratio": finite(ratio)}


def domain_section(
    meter: str, domain: Domain, window: Energy, idle_w: Mapping[str, float | None], window_s: float
) -> dict[str, Any]:
    """One entry of ``energy.domains``; ``idle_w`` holds mean power of the phases bare, resident and after."""
    mean_w = window.mean_w
    gross_j = None if mean_w is None else mean_w * window_s
    bare_w = idle_w["bare"]
    own_s = window.end_s - window.begin_s
    uncertainty_j = None if window.uncertainty_j is None or own_s <= 0 else window.uncertainty_j / own_s * window_s
    reason = window.reason
    if reason is None and gross_j is not None and bare_w is None:
        reason = "net energy is null: there is no bare idle baseline"
    return {
        "domain": domain.name,
        "meter": meter,
        "method": domain.method,
        "evidence": domain.evidence,
        "gross_j": finite(gross_j),
        "net_j": finite(None if gross_j is None or bare_w is None else gross_j - bare_w * window_s),
        "mean_w": finite(mean_w),
        "idle_bare_w": finite(bare_w),
        "idle_resident_w": finite(idle_w["resident"]),
        "idle_after_w": finite(idle_w["after"]),
        "window_s": finite(max(0.0, own_s)),
        "period_s": domain.period_s,
        "uncertainty_j": finite(uncertainty_j),
        "check": _check(window.check, window.energy_j, own_s, window_s),
        "boundary": domain.boundary,
        "reason": reason,
    }


def _sum(domains: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [d[key] for d in domains]
    return None if not values or any(v is None for v in values) else float(sum(values))


def evidence_of(domains: Sequence[Mapping[str, Any]]) -> str:
    """``measured``, ``estimated``, or ``mixed`` where the total adds both; ``none`` without any domain."""
    kinds = {d["evidence"] for d in domains}
    return "none" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


def energy_section(
    domains: Sequence[dict[str, Any]],
    covered: frozenset[str],
    unavailable: Sequence[tuple[str, str]],
    device: str,
    completed: int,
) -> dict[str, Any]:
    """The ``energy`` section. ``covered`` are the parts of the machine that the domains hold, ``device`` what ran."""
    reasons = [f"{d['domain']}: {d['reason']}" for d in domains if d["gross_j"] is None]
    needed = "gpu" if device == "cuda" else "cpu"
    if needed not in covered:
        reasons.append(f"no meter covers the {needed}, on which the models ran")
    complete = not reasons
    uncertainties = [d["uncertainty_j"] for d in domains]
    totals = {
        key: _sum(domains, key) if complete else None
        for key in ("gross_j", "net_j", "mean_w", "idle_bare_w", "idle_resident_w", "idle_after_w")
    }
    if complete and totals["net_j"] is None:
        reasons += [f"{d['domain']}: {d['reason']}" for d in domains if d["net_j"] is None]
    if completed == 0:
        reasons.append("energy per request is null: no request was completed in the window")
    known = complete and all(u is not None for u in uncertainties)
    evidence = evidence_of(domains)
    inside = "; ".join(f"{d['boundary']} ({d['evidence']})" for d in domains) or "nothing"
    missing = [f"the {part}" for part in ("cpu", "gpu") if part not in covered]
    outside = f" Without a figure: {', '.join(missing)}." if missing else ""
    return {
        "evidence": evidence,
        **totals,
        "gross_j_per_request": _per(totals["gross_j"], completed),
        "net_j_per_request": _per(totals["net_j"], completed),
        "uncertainty_j": math.sqrt(sum(u * u for u in uncertainties)) if known else None,
        "boundary": f"Included: {inside}.{outside} {NOT_INSIDE}",
        "domains": list(domains),
        "unavailable": [{"meter": meter, "reason": reason} for meter, reason in unavailable],
        "reason": "; ".join(reasons) or None,
    }


def _per(energy_j: float | None, requests: int) -> float | None:
    return None if energy_j is None or requests == 0 else energy_j / requests


def idle_power(phases: Mapping[str, Sequence[Energy] | None], domain: str) -> dict[str, float | None]:
    """Mean power of ``domain`` in each idle phase; None for a phase that was left out or has no figure."""
    found: dict[str, float | None] = {}
    for phase, energies in phases.items():
        energy = _by_domain(energies or ()).get(domain)
        found[phase] = None if energy is None else energy.mean_w
    return found
