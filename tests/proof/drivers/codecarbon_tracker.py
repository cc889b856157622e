"""CodeCarbon's OfflineEmissionsTracker, measuring once a second.

The hardware is looked for before the window, and a tracker before the real one has loaded what the first one loads when
it stops: else nobody could tell when in that call it reads.
"""

from protocol import serve

JOULES_PER_KWH = 3.6e6


def open_tool(settings):
    from codecarbon import OfflineEmissionsTracker

    def make():
        return OfflineEmissionsTracker(
            country_iso_code="USA",
            measure_power_secs=1,
            tracking_mode="machine",
            output_methods=[],
            log_level="warning",
            allow_multiple_runs=True,
        )

    first = make()
    first.start()
    first.stop()
    tracker = make()
    tracker.get_detected_hardware()

    def end():
        tracker.stop()
        data = tracker.final_emissions_data
        return {
            "gpu": {"all": data.gpu_energy * JOULES_PER_KWH},
            "cpu": {"all": data.cpu_energy * JOULES_PER_KWH},
            "dram": {"all": data.ram_energy * JOULES_PER_KWH},
            "estimated": estimated(tracker),
        }

    return tracker.start, end


def estimated(tracker):
    """Which parts the tracker does not measure, with its own name for what it does instead."""
    cpus = [hardware.description() for hardware in tracker._hardware if type(hardware).__name__ == "CPU"]
    parts = {"dram": "estimated from the size of the memory"}
    if not any("Rapl" in cpu for cpu in cpus):
        parts["cpu"] = f"estimated: {', '.join(cpus) or 'nothing'}"
    return parts


if __name__ == "__main__":
    serve(open_tool)
