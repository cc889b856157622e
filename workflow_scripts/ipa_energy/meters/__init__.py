"""Energy meters: NVML, RAPL and, where nothing measures, an estimate, behind the interface of :mod:`.base`.

:func:`open_meters` takes the config's ``meters`` section and gives the meters that can be used on this host, each part
of the machine covered once, with a reason for every meter that can't. :class:`.recorder.Recorder` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def close(self) -> None:
        """Release all devices."""
        for meter in self.meters:
            meter.close()


def open_meters(settings: Mapping[str, Any], gpu_needed: bool) -> OpenMeters:
    """Open the meters that ``settings["use"]`` names; takes up to 2 s.

    ``gpu_needed`` says whether the measured configuration uses a GPU: otherwise the GPU's energy lies outside the
    boundary and NVML is left alone. The estimate is opened only where no other meter covers the CPU. NVML comes first,
    because its edges wait for a counter tick: the others then open their windows right at that instant.
    """
    use = settings["use"]
    meters: list[Meter] = []
    unavailable: list[tuple[str, str]] = []
    try:
        if "nvml" in use:
            if gpu_needed:
                _try(NvmlMeter, meters, unavailable)
            else:
                unavailable.append(
                    ("nvml", "not opened: this configuration runs on the CPU alone, a GPU is outside its boundary")
                )
        if "rapl" in use:
            _try(RaplMeter, meters, unavailable)
        covered = {domain.covers for meter in meters for domain in meter.domains}
        if "estimate" in use and "cpu" not in covered:
            meters.append(EstimateMeter(**settings["estimate"]))
    except BaseException:
        OpenMeters(tuple(meters), ()).close()
        raise
    return OpenMeters(tuple(meters), tuple(unavailable))


def _try(kind: type[NvmlMeter] | type[RaplMeter], meters: list[Meter], unavailable: list[tuple[str, str]]) -> None:
    try:
        meters.append(kind())
    except MeterUnavailable as error:
        unavailable.append((kind.name, str(error)))
