"""The meters of this project as a measurement runs them: open_meters, Recorder, the default sample period."""

import time
from dataclasses import asdict

from protocol import serve

from ipa_energy.meters import open_meters
from ipa_energy.meters.base import Meter
from ipa_energy.meters.rapl import RaplMeter
from ipa_energy.meters.recorder import Recorder

LIMIT_S = 20


def open_tool(settings):
    if settings["lapse"] != 1.0:
        meters, unavailable = (lapsed(settings["lapse"]),), ()
    else:
        use = ["nvml"] if settings["gpu"] else ["rapl"]
        opened = open_meters({"use": use, "gpus": "used"}, gpu_needed=settings["gpu"])
        meters, unavailable = opened.meters, opened.unavailable
    recorder = Recorder(meters, settings["sample_period_s"])

    def begin():
        recorder.open()
        if not recorder.opened_event.wait(LIMIT_S):
            raise TimeoutError("the meters did not begin the window")

    def end():
        recorder.close()
        reading = recorder.result(LIMIT_S)
        domains = [asdict(domain) for meter in meters for domain in meter.domains]
        energies = [asdict(energy) for energy in reading.energies]
        provenance = {meter.name: meter.provenance() for meter in meters}
        return {
            "unavailable": unavailable,
            "domains": domains,
            "energies": energies,
            "provenance": provenance,
            "environments": reading.environments,
            "late_samples": reading.late_samples,
            "sample_count": reading.sample_count,
        }

    return begin, end


def lapsed(factor: float) -> Meter:
    """The CPU meter on a machine whose time runs faster."""
    start_s = time.monotonic()
    return RaplMeter(clock=lambda: start_s + factor * (time.monotonic() - start_s))


if __name__ == "__main__":
    serve(open_tool)
