"""A host whose power is known at every instant, its records, and the logs that meters with clocks of their own make."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from synthetic_records import make_record, video_grid

CONFIGURATION = video_grid()[0]
ORIGIN_S = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()

PHASES = (
    ("start", 1.5, 0.4),
    ("idle_bare", 10.0, 0.0),
    ("load_models", 3.0, 0.7),
    ("idle_resident", 5.0, 0.1),
    ("warm_up", 6.0, 1.0),
    ("window", 30.0, 1.0),
    ("quiesce", 0.4, 0.6),
    ("settle", 2.0, 0.15),
    ("idle_after", 5.0, 0.1),
    ("stop", 0.3, 0.2),
    ("settle", 2.0, 0.05),
    ("idle_bare_after", 10.0, 0.0),
)
"""Phase, length (s), and power above bare idle as a share of that under load."""


@dataclass(frozen=True)
class Steps:
    """Power over time as steps: ``power_w[i]`` from ``begin_s[i]`` on; the truth that everything is compared with."""

    begin_s: np.ndarray
    power_w: np.ndarray

    def at(self, time_s):
        return self.power_w[np.clip(np.searchsorted(self.begin_s, time_s, side="right") - 1, 0, None)]

    def energy_until_j(self, time_s):
        """Exact integral from the first step to each time."""
        before = np.concatenate(([0.0], np.cumsum(np.diff(self.begin_s) * self.power_w[:-1])))
        index = np.clip(np.searchsorted(self.begin_s, time_s, side="right") - 1, 0, None)
        return before[index] + (time_s - self.begin_s[index]) * self.power_w[index]

    def mean_w(self, begin_s, end_s):
        return (self.energy_until_j(end_s) - self.energy_until_j(begin_s)) / (end_s - begin_s)


@dataclass(frozen=True)
class Campaign:
    records: list
    truth: Steps

    @property
    def windows(self):
        return [
            (begin, begin + record["window"]["duration_s"])
            for record in self.records
            for begin in [datetime.fromisoformat(record["window"]["start_utc"]).timestamp()]
        ]


def campaign(
    count=8, *, seed=0, idle_w=90.0, step_w=120.0, phases=PHASES, host="host-a", jitter=0.3, origin_s=ORIGIN_S, repeat=0
):
    """``count`` records one after the other on one host, and the power that it drew.

    Levels under load and lengths vary between the records; ``repeat`` numbers another campaign's repetitions.
    """
    random = np.random.default_rng(seed)
    records, begins_s, powers_w = [], [origin_s - 300], [idle_w]
    now_s = origin_s
    monotonic_s = 5000.0
    for number in range(count):
        level_w = step_w * random.uniform(0.6, 1.4)
        timeline, window = [], None
        for name, length_s, share in phases:
            lasts_s = length_s * (1 + jitter * random.uniform(-0.3, 0.3))
            timeline.append(
                {
                    "phase": name,
                    "begin_s": now_s - origin_s + monotonic_s,
                    "end_s": now_s - origin_s + monotonic_s + lasts_s,
                }
            )
            begins_s.append(now_s)
            powers_w.append(idle_w + share * level_w)
            if name == "window":
                window = (now_s, lasts_s)
            now_s += lasts_s
        begins_s.append(now_s)
        powers_w.append(idle_w)
        now_s += random.uniform(0.5, 3.0)
        record = make_record(
            CONFIGURATION,
            latency_s=0.1,
            net_j_per_request=1.0,
            throughput_rps=10.0,
            block=repeat + number + 1,
            order=number,
            host=host,
            window_s=window[1],
        )
        record["window"] = {
            "start_utc": datetime.fromtimestamp(window[0], UTC).isoformat(),
            "end_utc": datetime.fromtimestamp(sum(window), UTC).isoformat(),
            "start_monotonic_s": window[0] - origin_s + monotonic_s,
            "end_monotonic_s": sum(window) - origin_s + monotonic_s,
            "duration_s": window[1],
            "timeline": timeline,
        }
        records.append(record)
    begins_s.append(now_s + 300)
    powers_w.append(idle_w)
    return Campaign(records, Steps(np.array(begins_s), np.array(powers_w)))


def readings(
    truth, *, period_s=1.0, value="instant", noise_w=1.0, offset_s=0.0, drift=0.0, seed=0, begin_s=None, end_s=None
):
    """(times by the log's clock, powers): host = log + ``offset_s``, which grows by ``drift`` from the first row on."""
    random = np.random.default_rng(seed + 1000)
    first_s = truth.begin_s[0] + 1 if begin_s is None else begin_s
    last_s = truth.begin_s[-1] if end_s is None else end_s
    host_s = np.arange(first_s + random.uniform(0, period_s), last_s, period_s)
    match value:
        case "instant":
            power_w = truth.at(host_s)
        case "mean_before":
            power_w = truth.mean_w(host_s - period_s, host_s)
        case "mean_after":
            power_w = truth.mean_w(host_s, host_s + period_s)
    log_s = host_s - offset_s - drift * (host_s - host_s[0])
    return log_s, np.maximum(power_w + random.normal(0, noise_w, len(host_s)), 0.0)


def write_log(
    path,
    log_s,
    power_w,
    *,
    header="time,power",
    separator=",",
    time=lambda s: f"{s:.6f}",
    power=lambda w: f"{w:.6f}",
):
    """A CSV of the readings; ``time`` and ``power`` turn numbers to text."""
    rows = (f"{time(s)}{separator}{power(w)}" for s, w in zip(log_s, power_w, strict=True))
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def log_config(path, **changes):
    """Settings of a log of UNIX times and watts; ``changes`` replace keys."""
    return {
        "files": path if isinstance(path, list) else str(path),
        "columns": {"time": "time", "power": "power"},
        "time": {"format": "unix_s"},
        "covers": "node",
    } | changes
