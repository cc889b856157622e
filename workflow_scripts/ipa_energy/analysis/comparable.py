"""What tells whether the joules of two records may be put together: what their totals hold, and how they were measured.

A record goes in; out comes text that is equal for records that may be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ipa_energy.record import Record


def meters_of(domains: Iterable[Mapping[str, Any]]) -> str | None:
    """What a total holds, as text that is equal for totals that may be compared; None without any domain.

    ``cpu:estimate (estimated) + gpu_0:nvml``: domain and meter of each part, sorted.
    """
    parts = [
        f"{domain['domain']}:{domain['meter']}" + " (estimated)" * (domain["evidence"] == "estimated")
        for domain in domains
    ]
    return " + ".join(sorted(parts)) or None


def settings_digest(record: Record) -> str | None:
    """Twelve hex digits that differ where measuring settings, frames or workload did; None when it holds no settings.

    The thresholds of the gates are left out: they change which flags a record has, and no joule.
    """
    settings = record["provenance"].get("settings")
    if settings is None:
        return None
    way = {
        "settings": {key: value for key, value in settings.items() if key != "gates"},
        "frames": (record["provenance"].get("frames") or {}).get("sha256"),
        "workload": record["identity"]["workload_settings"],
    }
    text = json.dumps(way, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
