"""Zeus's ZeusMonitor as its documentation shows it, without the synchronisation of a framework.

For GPUs without an energy counter it uses its PowerMonitor by itself. CPUs are read by helpers that start at the first
window and take seconds to do so; a window before the real one gives them that time.
"""

import time
import warnings

from protocol import serve

HELPERS_S = 3.0


def open_tool(settings):
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=None if settings["gpu"] else [], cpu_indices=[] if settings["gpu"] else None)
    if monitor.cpu_indices:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monitor.begin_window("before", sync_execution=False)
            time.sleep(HELPERS_S)
            monitor.end_window("before", sync_execution=False)

    def begin():
        monitor.begin_window("proof", sync_execution=False)

    def end():
        measured = monitor.end_window("proof", sync_execution=False)
        return {"gpu": measured.gpu_energy, "cpu": measured.cpu_energy, "dram": measured.dram_energy}

    return begin, end


if __name__ == "__main__":
    serve(open_tool)
