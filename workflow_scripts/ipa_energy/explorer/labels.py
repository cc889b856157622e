"""What columns of the configurations table are called on the page, with their units."""

from __future__ import annotations

ENERGY_LABELS = {
    "gross_j_per_request": "gross energy (J / request)",
    "net_j_per_request": "net energy (J / request)",
    "gross_j": "gross energy of the window (J)",
    "net_j": "net energy of the window (J)",
    "mean_w": "mean power (W)",
    "idle_bare_w": "idle power before (W)",
    "idle_resident_w": "idle power, models loaded (W)",
    "idle_after_w": "idle power after, models loaded (W)",
    "idle_bare_after_w": "idle power after (W)",
}
LABELS = (
    ENERGY_LABELS
    | {
        "pas": "accuracy (PAS)",
        "pas_rank": "accuracy (rank sum)",
        "usd_per_1000_requests": "cost (USD / 1000 requests)",
        "usd_per_hour": "cost (USD / hour)",
        "throughput_rps": "throughput (requests / s)",
        "offered_rps": "offered load (requests / s)",
        "cores": "cores occupied",
        "gpus": "GPUs occupied",
    }
    | {f"latency_{name}_s": f"{name} latency (s)" for name in ("mean", "p50", "p90", "p95", "p99", "max")}
)

_UNITS = {
    "_j_per_request": "J / request",
    "_j": "J",
    "_w": "W",
    "_s": "s",
    "_rps": "requests / s",
    "_usd": "USD",
    "_bytes": "bytes",
    "_fraction": "fraction",
}


def label_of(column: str) -> str:
    """A column's name in words with its unit, which follows from the end of the name where the column isn't known."""
    if column in LABELS:
        return LABELS[column]
    for end, unit in _UNITS.items():
        if column.endswith(end):
            return f"{column.removesuffix(end).replace('_', ' ').replace('.', ' ')} ({unit})"
    return column.replace("_", " ").replace(".", " ")


def is_energy(column: str) -> bool:
    """Whether a column holds energy or power, which the page must call estimated where it is."""
    return column.endswith(("_j", "_w", "_j_per_request", ".gross_j", ".net_j"))
