"""The scenarios: what a machine draws over time, what its counters do, and what our figure has to be.

Only data and the truth that follows from it. Energies in joules, powers in watts, times in seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SERVER_UJ = 1e6 / 2**14
"""Step of a counter that wraps after 262 kJ (Intel's packages on servers)."""
FINE_UJ = 15.3
"""Step of a counter that wraps after 65.7 kJ (Intel's memory on servers, and about AMD's packages)."""
GPU_STEP_W = 50.0
"""GPU i of the stub draws this times i more than the script says."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What our figure has to be.

    ``within``: off by no more than ``tolerance`` (a fraction), with exactly the flags ``flags``. ``flagged``: possibly
    off by more, but with all of ``flags``. ``null``: no figure, and ``says`` in the reason. For counters of a CPU the
    tolerance is a number of counter steps instead.
    """

    kind: Literal["within", "flagged", "null"]
    tolerance: float = 0.005
    flags: frozenset[str] = frozenset()
    says: str = ""


def within(tolerance: float, *flags: str) -> Expect:
    return Expect("within", tolerance, frozenset(flags))


def flagged(*flags: str, tolerance: float = 0.005) -> Expect:
    return Expect("flagged", tolerance, frozenset(flags))


def null(says: str, *flags: str) -> Expect:
    return Expect("null", flags=frozenset(flags), says=says)


@dataclass(frozen=True, slots=True)
class GpuScenario:
    """A script for the stub of libnvidia-ml.so.1.

    ``segments`` are (seconds, watts) that repeat from the epoch on; ``script`` holds further keys of the stub, in which
    ``{folder}`` is the folder of the event files; ``events`` are (seconds after the window has begun, name of the file
    made then). ``batch_s`` is the time from one batch of the load to the next, the first at the epoch. ``measurable``
    is False where no figure of the board would answer the question.
    """

    name: str
    title: str
    expect: Expect
    window_s: float = 1.0
    segments: tuple[tuple[float, float], ...] = ((1.0, 300.0),)
    script: tuple[str, ...] = ()
    gpus: int = 1
    events: tuple[tuple[float, str], ...] = ()
    batch_s: float | None = None
    measurable: bool = True

    parts = ("gpu",)

    def stub_script(self, epoch_s: float, folder: str) -> str:
        """The text that the stub reads."""
        lines = [f"gpus {self.gpus}", f"epoch {epoch_s!r}"]
        lines += [f"segment {seconds} {watts}" for seconds, watts in self.segments]
        return "\n".join([*lines, *(line.format(folder=folder) for line in self.script)]) + "\n"

    def truth_j(self, gpu: int, begin_s: float, end_s: float, epoch_s: float) -> float:
        """Energy that GPU ``gpu`` drew between two times."""
        until_j = [_energy(self.segments, time_s - epoch_s) for time_s in (begin_s, end_s)]
        return until_j[1] - until_j[0] + GPU_STEP_W * gpu * (end_s - begin_s)

    @property
    def peak_w(self) -> float:
        """Highest power of all GPUs together."""
        return self.gpus * max(watts for _, watts in self.segments) + GPU_STEP_W * sum(range(self.gpus))


def _energy(segments: Sequence[tuple[float, float]], since_s: float) -> float:
    cycle_s = sum(seconds for seconds, _ in segments)
    cycles, left_s = divmod(since_s, cycle_s)
    energy_j = cycles * sum(seconds * watts for seconds, watts in segments)
    for seconds, watts in segments:
        energy_j += min(max(left_s, 0.0), seconds) * watts
        left_s -= seconds
    return energy_j


@dataclass(frozen=True, slots=True)
class Package:
    """A CPU package as powercap shows it.

    ``wrap_s`` and ``dram_wrap_s`` are the seconds from the begin of the window to the counter's next wrap; None: none
    is near. ``mirrors`` is the number of the package whose counter this one shows.
    """

    name: str = "package-0"
    watts: float = 100.0
    dram: bool = False
    unit_uj: float = SERVER_UJ
    wrap_s: float | None = None
    dram_wrap_s: float | None = None
    mirrors: int | None = None
    readable: bool = True

    @property
    def socket(self) -> int:
        """Number of its socket."""
        return int(self.name.split("-")[1])


@dataclass(frozen=True, slots=True)
class CpuScenario:
    """A powercap tree whose counters run in real time; they stand while a tool takes an edge of its window.

    ``events`` are (seconds after the window has begun, package, joules by which its counter jumps then); None: from
    then on it stands still. ``expect_dram`` is for the memory; None where there is none. ``lapse`` is how much faster
    the time of the machine may run where a test has no time for the real one.
    """

    name: str
    title: str
    expect: Expect
    packages: tuple[Package, ...]
    window_s: float = 2.0
    events: tuple[tuple[float, int, float | None], ...] = ()
    expect_dram: Expect | None = None
    lapse: float = 1.0
    measurable: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """What has a figure."""
        return ("cpu",) if self.expect_dram is None else ("cpu", "dram")


Scenario = GpuScenario | CpuScenario

PART_TIME = ("see_ms 25", "counter_see_ms 25")
"""Counter and power see the last 25 of each 100 ms: the sensor of A100 and H100 PCIe, with the counter as bad as it."""
FULL = ("see_ms 100", "average_ms 1000")
"""The instant power sees the whole of its update period, the averaged one the last second."""


def square(period_s: float, high_w: float = 400.0, low_w: float = 100.0) -> tuple[tuple[float, float], ...]:
    """A power that is high for half of each period and low for the other half."""
    return ((period_s / 2, high_w), (period_s / 2, low_w))


GPU_SCENARIOS = (
    GpuScenario("constant", "300 W; counter every 100 ms", within(0.005), window_s=1.03, script=FULL),
    GpuScenario("long_window", "the same in a window of 10 s", within(0.005), window_s=10.03, script=FULL),
    GpuScenario(
        "slow_counter",
        "300 W; counter and power every 500 ms",
        within(0.01),
        window_s=2.3,
        script=("period_ms 500", "power_period_ms 500", "see_ms 500", "average_ms 1000"),
    ),
    GpuScenario("short_window", "300 W; a window of 0.3 s", within(0.01), window_s=0.3, script=FULL),
    GpuScenario(
        "steps",
        "100 W for 0.31 s, 400 W for 0.23 s, again and again",
        within(0.005),
        window_s=1.63,
        segments=((0.31, 100.0), (0.23, 400.0)),
        script=("see_ms 100",),
    ),
    GpuScenario(
        "jitter",
        "300 W; counter every 100 ms ± 5 ms",
        within(0.01),
        window_s=1.53,
        script=(*FULL, "jitter_ms 10"),
    ),
    GpuScenario(
        "square_90",
        "100 and 400 W in turn, 90 ms a cycle; counter sees all",
        within(0.005),
        window_s=2.0,
        segments=square(0.090),
        script=FULL,
        batch_s=0.090,
    ),
    GpuScenario(
        "square_110",
        "the same, 110 ms a cycle",
        within(0.005),
        window_s=2.2,
        segments=square(0.110),
        script=FULL,
        batch_s=0.110,
    ),
    GpuScenario(
        "square_100",
        "the same, 100 ms a cycle, in step with the updates",
        within(0.005, "aliasing"),
        window_s=2.0,
        segments=square(0.100),
        script=FULL,
        batch_s=0.100,
    ),
    GpuScenario(
        "square_25",
        "the same, 25 ms a cycle: four to an update",
        within(0.005, "aliasing"),
        window_s=2.0,
        segments=square(0.025),
        script=FULL,
        batch_s=0.025,
    ),
    GpuScenario(
        "part_time_power",
        "100 ms a cycle in step; counter sees all, power the last 25 of 100 ms",
        within(0.005, "aliasing", "meters_disagree"),
        window_s=2.0,
        segments=square(0.100),
        script=("see_ms 25", "average_ms 1000"),
        batch_s=0.100,
    ),
    GpuScenario(
        "part_time_locked",
        "100 ms a cycle in step; counter and power see the last 25 of 100 ms",
        flagged("aliasing"),
        window_s=2.0,
        segments=square(0.100),
        script=PART_TIME,
        batch_s=0.100,
    ),
    GpuScenario(
        "part_time_locked_double",
        "200 ms a cycle (100 W for 120 ms, 400 W for 80 ms); counter and power see the last 25 of 100 ms",
        flagged("aliasing"),
        window_s=2.0,
        segments=((0.12, 100.0), (0.08, 400.0)),
        script=PART_TIME,
        batch_s=0.200,
    ),
    GpuScenario(
        "part_time_free",
        "73 ms a cycle, in a window of 10 s; counter and power see the last 25 of 100 ms",
        within(0.01),
        window_s=10.03,  # 100 updates: the fewest that the gates let pass
        segments=square(0.073),
        script=PART_TIME,
        batch_s=0.073,
    ),
    GpuScenario(
        "no_counter",
        "300 W; a GPU without the energy counter (Pascal)",
        within(0.005),
        window_s=1.5,
        script=(*FULL, "no_counter 1", "architecture 4"),
    ),
    GpuScenario(
        "no_counter_steps",
        "100 W for 0.9 s, 400 W for 0.23 s, again and again; without the energy counter",
        within(0.05),
        window_s=4.3,
        segments=((0.9, 100.0), (0.23, 400.0)),
        script=("see_ms 100", "no_field 185", "no_counter 1", "architecture 4"),
    ),
    GpuScenario(
        "two_gpus",
        "300 and 350 W; two GPUs, updates at different times",
        within(0.005),
        window_s=1.03,
        gpus=2,
        script=FULL,
    ),
    GpuScenario(
        "reset",
        "300 W; the counter restarts in the window",
        null("went backwards"),
        window_s=1.2,
        script=(*FULL, "reset {folder}/reset"),
        events=((0.6, "reset"),),
    ),
    GpuScenario(
        "lost",
        "300 W; the GPU is lost in the window",
        null("GPU is lost"),
        window_s=1.2,
        script=(*FULL, "lost {folder}/lost"),
        events=((0.6, "lost"),),
    ),
    GpuScenario(
        "frozen",
        "300 W; the counter freezes in the window",
        null("stood still"),
        window_s=1.5,
        script=(*FULL, "frozen {folder}/frozen"),
        events=((0.7, "frozen"),),
    ),
    GpuScenario(
        "foreign_process",
        "300 W, a part of it by somebody else's process",
        within(0.005, "foreign_gpu"),
        window_s=1.53,
        script=(*FULL, "pid 4194304"),
    ),
    GpuScenario(
        "no_permission",
        "300 W; no permission for the counter",
        within(0.005),
        window_s=1.5,
        script=(*FULL, "error counter 4"),
    ),
    GpuScenario(
        "zero_field",
        "300 W; the instant power reads 0",
        within(0.005),
        window_s=1.03,
        script=(*FULL, "zero_field 186"),
    ),
    GpuScenario(
        "zero_field_no_counter",
        "300 W; the instant power reads 0, no energy counter",
        within(0.005),
        window_s=2.5,
        script=(*FULL, "zero_field 186", "no_counter 1", "architecture 4"),
    ),
    GpuScenario(
        "mig",
        "300 W; a GPU cut into MIG slices",
        null("MIG enabled"),
        window_s=1.0,
        script=(*FULL, "mig 1"),
        measurable=False,
    ),
)

STEP = 1.0
"""Tolerance of a CPU's figure in counter steps."""

CPU_SCENARIOS = (
    CpuScenario(
        "rapl_constant",
        "100 W, memory 25 W",
        within(STEP),
        (Package(dram=True),),
        expect_dram=within(STEP),
    ),
    CpuScenario(
        "rapl_wrap",
        "a wrap, and 2.5 s after it",
        within(STEP),
        (Package(wrap_s=0.5),),
        window_s=3.0,
    ),
    CpuScenario(
        "rapl_late_wrap",
        "a wrap in the last 100 ms",
        within(STEP),
        (Package(wrap_s=1.97),),
        window_s=2.0,
    ),
    CpuScenario(
        "rapl_two_wraps",
        "two wraps, 131 s apart, at 500 W (65.7 kJ a range)",
        within(2 * STEP),
        (Package(watts=500.0, unit_uj=FINE_UJ, wrap_s=0.5),),
        window_s=135.0,
        lapse=40.0,
    ),
    CpuScenario(
        "rapl_wrap_of_one",
        "two sockets of 100 and 60 W, one wraps",
        within(STEP),
        (Package(wrap_s=0.5), Package("package-1", 60.0)),
        window_s=3.0,
    ),
    CpuScenario(
        "rapl_mirrored_dies",
        "two dies that both show their socket's counter",
        within(STEP),
        (Package("package-0-die-0"), Package("package-0-die-1", mirrors=0)),
    ),
    CpuScenario(
        "rapl_dram_wrap",
        "the memory's counter wraps (65.7 kJ)",
        within(STEP),
        (Package(dram=True, dram_wrap_s=0.5),),
        window_s=3.0,
        expect_dram=within(STEP),
    ),
    CpuScenario(
        "rapl_backwards",
        "the counter jumps back by 20 J",
        null("reset or misread", "implausible_power"),
        (Package(),),
        events=((1.0, 0, -20.0),),
    ),
    CpuScenario(
        "rapl_frozen",
        "the counter freezes in the window",
        null("stood still", "implausible_power"),
        (Package(),),
        window_s=2.5,
        events=((1.0, 0, None),),
    ),
    CpuScenario(
        "rapl_unreadable",
        "counters that only root may read, read without",
        null("permission denied"),
        (Package(readable=False),),
        window_s=1.0,
    ),
    CpuScenario(
        "rapl_no_dram",
        "a package without a memory counter",
        within(STEP),
        (Package(),),
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (*GPU_SCENARIOS, *CPU_SCENARIOS)}
