"""Energy meters: NVML, RAPL and, where nothing measures, an estimate; Zeus as a second opinion. See :mod:`.base`.

:func:`open_meters` takes the config's ``meters`` section and gives the meters that can be used on this host, each part
of the machine covered once, with a reason for every meter that can't. :class:`.recorder.Recorder` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa_energy.meters.base import Meter, MeterUnavailable
from ipa_energy.meters.estimate import EstimateMeter
from ipa_energy.meters.nvml import NvmlMeter
from ipa_energy.meters.rapl import RaplMeter


@dataclass(frozen=True)
class OpenMeters:
    """Meters in use, and (name, reason) of those that were asked for and can't be used."""

    meters: tuple[Meter, ...]
    unavailable: tuple[tuple[str, str], ...]

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Processes that meters keep beside ours: their CPU time is the measurement's own."""
        return tuple(pid for meter in self.meters for pid in getattr(meter, "process_ids", ()))

    def close(self) -> None:
        """Release all devices."""
        for meter in self.meters:
            meter.close()


def open_meters(settings: Mapping[str, Any], gpu_needed: bool) -> OpenMeters:
    """Open the meters that ``settings["use"]`` names; takes up to 2 s.

    ``gpu_needed`` says whether the measured configuration uses a GPU: otherwise, unless ``settings["gpus"]`` is
    ``all``, the GPU's energy lies outside the boundary and NVML is left alone. The estimate is opened only where no
    other meter covers the CPU. NVML comes first, because its edges wait for a counter tick: the others then open their
    windows right at that instant.
    """
    use, all_gpus = settings["use"], settings.get("gpus", "used") == "all"
    meters: list[Meter] = []
    unavailable: list[tuple[str, str]] = []

    def attempt(name: str, opened: Callable[[], Meter]) -> None:
        try:
            meters.append(opened())
        except MeterUnavailable as error:
            unavailable.append((name, str(error)))

    try:
        if "nvml" in use:
            if gpu_needed or all_gpus:
                attempt("nvml", lambda: NvmlMeter(all_gpus=all_gpus))
            else:
                unavailable.append(
                    ("nvml", "not opened: this configuration runs on the CPU alone, a GPU is outside its boundary")
                )
        if "rapl" in use:
            attempt("rapl", RaplMeter)
        covered = {domain.covers for meter in meters for domain in meter.domains}
        if "estimate" in use and "cpu" not in covered:
            meters.append(EstimateMeter(**settings["estimate"]))
        if "zeus" in use:
            attempt("zeus", lambda: _open_zeus(meters))
    except BaseException:
        OpenMeters(tuple(meters), ()).close()
        raise
    return OpenMeters(tuple(meters), tuple(unavailable))


def _open_zeus(others: Sequence[Meter]) -> Meter:
    from ipa_energy.meters.zeus import ZeusMeter  # noqa: PLC0415 - an optional extra, and slow to import

    return ZeusMeter(others)
