"""pyRAPL's sensors as readers of raw RAPL counters, with the faults of release 0.2.3.1 kept inside.

pyRAPL's own measurements lose or negate the energy whenever a counter wraps, so only ``pyRAPL.Sensor.energy()`` is
used: raw µJ per socket, -1 where a socket has no such counter. What else is contained here: an import that logs
warnings and thereby configures the root logger; exceptions without text; packages split in dies, on which it gives up;
machines whose CPUs it can't list.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

from ipa_energy.meters.powercap import Zone, between


class PyRaplUnusableError(Exception):
    """pyRAPL can't read these zones. The text says why."""


@contextmanager
def _untouched_logging() -> Iterator[None]:
    def not_from_pyrapl(record: logging.LogRecord) -> bool:
        return "pyRAPL" not in record.pathname

    root = logging.getLogger()
    placeholder = logging.NullHandler()  # a root logger without handlers is configured by the first warning
    root.addHandler(placeholder)
    root.addFilter(not_from_pyrapl)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in its regular expressions
            yield
    finally:
        root.removeFilter(not_from_pyrapl)
        root.removeHandler(placeholder)


class PyRaplReader:
    """Raw counters of those ``zones`` that pyRAPL can read, checked against the zones' own files."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        """Set the sensor up. Raises PyRaplUnusableError when none of the zones can be had through it."""
        try:
            with _untouched_logging():
                self._sensor: Any = import_module("pyRAPL").Sensor()
            self.version = metadata.version("pyRAPL")
            before_uj = {zone.domain: zone.read_uj() for zone in zones}
            values = self._sensor.energy()
            after_uj = {zone.domain: zone.read_uj() for zone in zones}
        except Exception as error:  # its exceptions often carry no text and are of no common kind
            raise PyRaplUnusableError(
                f"pyRAPL can't set itself up: {type(error).__name__}{f' ({error})' if str(error) else ''}"
            ) from error
        self._places: dict[str, int] = {}
        for zone in zones:
            place = 2 * zone.socket + (zone.part == "dram")
            if zone.die is not None or place >= len(values) or values[place] < 0:
                continue
            if between(before_uj[zone.domain], int(values[place]), after_uj[zone.domain], zone.range_uj):
                self._places[zone.domain] = place
        if not self._places:
            raise PyRaplUnusableError("pyRAPL shows none of the counters that powercap has")

    @property
    def domains(self) -> frozenset[str]:
        """Domains that this reader gives."""
        return frozenset(self._places)

    def read(self) -> dict[str, int]:
        """Counters in µJ by domain. Raises OSError or ValueError where one can't be read."""
        values = self._sensor.energy()
        readings = {domain: int(values[place]) for domain, place in self._places.items()}
        for domain, reading in readings.items():
            if reading < 0:
                raise ValueError(f"pyRAPL gives {reading} for {domain}")
        return readings

    def close(self) -> None:
        """Let go of the sensor and so of its open files."""
        self._sensor = None
