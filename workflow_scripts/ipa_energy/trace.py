"""The power trace of a window: a parquet table, one row a sample and domain.

Columns: ``time_s`` (seconds from the begin of the service window), ``domain``, ``power_w``. A measurement that failed
leaves a table without rows, so that every record has its trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipa_energy.files import atomic_path

if TYPE_CHECKING:
    from ipa_energy.meters.base import PowerSample


def write_trace(path: str, samples: Sequence[PowerSample], begin_s: float) -> None:
    """Write ``samples`` (monotonic seconds, watts) to ``path`` atomically."""
    import pyarrow as pa  # noqa: PLC0415  # a quarter of a second that a measurement pays after its window, not before
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table(
        {
            "time_s": pa.array([s.time_s - begin_s for s in samples], pa.float64()),
            "domain": pa.array([s.domain for s in samples], pa.string()),
            "power_w": pa.array([s.power_w for s in samples], pa.float64()),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
