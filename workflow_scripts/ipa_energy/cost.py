"""Cost of a configuration: what it occupies times the price, IPA's notion of cost (cores allocated) in dollars."""

from __future__ import annotations

from collections.abc import Mapping


def usd_per_hour(cores: int, gpus: int, prices: Mapping[str, float]) -> float:
    """Price of the occupied cores and GPUs for one hour, used or not."""
    return cores * prices["core_hour_usd"] + gpus * prices["gpu_hour_usd"]


def usd_per_1000_requests(hourly_usd: float, throughput_rps: float) -> float | None:
    """Dollars per 1000 requests at ``throughput_rps``; None when nothing is served."""
    return hourly_usd / 3600.0 / throughput_rps * 1000.0 if throughput_rps > 0 else None
