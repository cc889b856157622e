"""Changes the platform over the stubs, in a process of its own; prints one JSON line inside the block and one after it.

The argument is JSON: ``caps``, a list of [UUIDs, watts], and ``mps``, [UUIDs, thread percentage or null], entered one
in the other; ``within``, what to do in the block; ``handler``, how this process handled SIGTERM before; ``times``, how
often to go through it all; ``seconds``, patience with MPS, by its name.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pynvml as nvml

from ipa_energy.platforms import journal, mps
from ipa_energy.platforms.gpus import GpuUnavailable, opened_nvml, uuids
from ipa_energy.platforms.mps import BINARY, MpsLost, MpsRefused, mps_daemon
from ipa_energy.platforms.power_limit import PowerLimitLost, PowerLimitRefused, power_limit


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def requested_w() -> dict[str, float]:
    with opened_nvml():
        handles = {uuid: nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids(nvml)}
        return {uuid: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3 for uuid, handle in handles.items()}


def set_limit(watts: float, uuid: str) -> None:
    with opened_nvml():
        nvml.nvmlDeviceSetPowerManagementLimit(nvml.nvmlDeviceGetHandleByUUID(uuid), round(watts * 1e3))


def leave_a_child() -> None:
    """A forked child that leaves the block by an exception, while its parent is still in it."""
    pid = os.fork()
    if pid == 0:
        raise SystemExit(0)
    os.waitpid(pid, 0)
    tell(after_child=requested_w())


def wait() -> None:
    deadline_s = time.monotonic() + 50
    while time.monotonic() < deadline_s:
        time.sleep(0.02)


def until_the_flag(flag: threading.Event) -> None:
    assert flag.wait(50)
    tell(still=requested_w())


def start_server(running: dict[str, Any]) -> None:
    """What a tenant's first call of CUDA does."""
    done = subprocess.run(
        [BINARY],
        env=os.environ | running["environment"],
        input="start_server -uid 0\nget_server_list\n",
        text=True,
        capture_output=True,
        check=True,
    )
    tell(server=int(done.stdout))


def block(wanted: dict[str, Any], flag: threading.Event, say: Callable[[str], None]) -> None:
    limits, running = {}, None
    with ExitStack() as stack:
        for gpus, watts in wanted.get("caps", ()):
            entered = stack.enter_context(power_limit(gpus, watts, "the driver", say))
            limits |= {uuid: asdict(limit) for uuid, limit in entered.items()}
        if "mps" in wanted:
            gpus, percentage = wanted["mps"]
            daemon = stack.enter_context(mps_daemon(gpus, "the driver", say, percentage))
            running = {"environment": dict(daemon.environment), "pid": daemon.control_pid}
        files = [path.name for path, _ in journal.read_all()]
        tell(limits=limits, mps=running, requested_w=requested_w(), journal=files)
        actions: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "raise": lambda: 1 / 0,
            "exit": lambda: sys.exit(5),
            "wait": wait,
            "flag": lambda: until_the_flag(flag),
            "change": lambda: set_limit(250, wanted["caps"][0][0][0]),
            "lose": lambda: Path(wanted["lost"]).touch(),
            "fork": leave_a_child,
            "serve": lambda: start_server(running or {}),
            "kill_daemon": lambda: os.kill((running or {})["pid"], signal.SIGKILL),
        }
        for action in wanted.get("within", "nothing").split():
            actions[action]()


def set_handlers(sigterm: str, flag: threading.Event) -> dict[int, Any]:
    handlers: dict[str, Any] = {
        "default": signal.SIG_DFL,
        "ignores": signal.SIG_IGN,
        "exits": lambda *_: sys.exit(7),
        "notes": lambda *_: flag.set(),
    }
    # As in a terminal, whatever this was started from: a shell's background job ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, handlers[sigterm])
    return {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    flag = threading.Event()
    for name, seconds in wanted.get("seconds", {}).items():
        assert hasattr(mps, name)
        setattr(mps, name, seconds)
    before = set_handlers(wanted.get("handler", "default"), flag)
    said: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            block(wanted, flag, said.append)
        except (PowerLimitRefused, PowerLimitLost, MpsRefused, MpsLost, ZeroDivisionError) as error:
            errors.append(error)

    for _ in range(wanted.get("times", 1)):
        if wanted.get("thread"):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        else:
            run()
    try:
        left_w: Any = requested_w()
    except (nvml.NVMLError, GpuUnavailable) as error:
        left_w = str(error)
    tell(
        error=[type(errors[0]).__name__, str(errors[0])] if errors else None,
        said=said,
        requested_w=left_w,
        journal=[path.name for path, _ in journal.read_all()],
        handlers_as_before=all(signal.getsignal(signum) is handler for signum, handler in before.items()),
    )
    if "stay" in wanted:
        wait()


if __name__ == "__main__":
    main()
