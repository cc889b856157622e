"""pyRAPL's sensors as readers of raw RAPL counters, with the faults of release 0.2.3.1 kept inside.

pyRAPL's own measurements lose or negate the energy whenever a counter wraps, so only ``pyRAPL.Sensor.energy()`` is
used: raw µJ per socket, -1 where a socket has no such counter. Every zone gets a sensor of its own, so that memory
which can't be read, or a socket that pyRAPL doesn't know, costs pyRAPL's view of that zone alone. What else is
contained here: an import that logs warnings and thereby configures the root logger; exceptions without text; packages
split in dies, on which it gives up; machines whose CPUs it can't list; files that it opens and never closes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

from ipa_energy.meters.powercap import Zone, between


class PyRaplUnusableError(Exception):
    """pyRAPL can't read this zone. The text says why."""


@contextmanager
def _contained() -> Iterator[None]:
    def not_from_pyrapl(record: logging.LogRecord) -> bool:
        return "pyRAPL" not in record.pathname

    root = logging.getLogger()
    placeholder = logging.NullHandler()  # a root logger without handlers is configured by the first warning
    root.addHandler(placeholder)
    root.addFilter(not_from_pyrapl)
    try:
        with warnings.catch_warnings():
            # Invalid escape sequences in its regular expressions, and files left to the garbage collector.
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(not_from_pyrapl)
        root.removeHandler(placeholder)


class PyRaplReader:
    """The raw counter of one zone through pyRAPL, compared with the zone's own file at the start."""

    def __init__(self, zone: Zone) -> None:
        """Set a sensor up. Raises PyRaplUnusableError when the zone can't be had through it."""
        self._name = zone.domain
        self._place = 2 * zone.socket + (zone.part == "dram")
        self._sensor: Any = None
        with _contained():
            problem = self._set_up(zone)
        if problem is None:
            before_uj, reading_uj, after_uj = zone.read_uj(), self.read_uj(), zone.read_uj()
            if not between(before_uj, reading_uj, after_uj, zone.range_uj):
                problem = f"pyRAPL gives {reading_uj} µJ where {zone.path} has {after_uj}"
        if problem is not None:
            self.close()
            raise PyRaplUnusableError(problem)

    def _set_up(self, zone: Zone) -> str | None:
        """Why there is no sensor. The exception ends here, because its traceback keeps pyRAPL's files open."""
        try:
            module: Any = import_module("pyRAPL")
            self.version = metadata.version("pyRAPL")
            device = module.Device.PKG if zone.part == "cpu" else module.Device.DRAM
            self._sensor = module.Sensor(devices=[device], socket_ids=[zone.socket])
            self.read_uj()
        except Exception as error:  # its exceptions often carry no text and are of no common kind
            return f"pyRAPL can't set itself up: {type(error).__name__}{f' ({error})' if str(error) else ''}"
        return None

    def read_uj(self) -> int:
        """The counter in µJ. Raises OSError or ValueError where it can't be read."""
        if self._sensor is None:
            raise ValueError("pyRAPL's sensor was closed")
        reading_uj = int(self._sensor.energy()[self._place])
        if reading_uj < 0:
            raise ValueError(f"pyRAPL gives {reading_uj} for {self._name}")
        return reading_uj

    def close(self) -> None:
        """Let go of the sensor and so of its open file. Safe to call twice."""
        with _contained():
            self._sensor = None
