"""A discrete-event simulation of a pipeline whose configuration is decided anew every few seconds.

Arrivals and service curves go in; a log of batches, drops, replicas and decisions comes out, from which
:mod:`.outcome` makes figures. A decision for another number of replicas starts or ends some; one for another variant or
other cores starts a whole new set, while the old one serves until all of the new are there. Who leaves finishes the
batch in hand. No decision loses a request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import simpy

from ipa_energy.ipa.random_streams import stream
from ipa_energy.ipa.run_log import IPA_RULES, Configuration, Decide, Decision, Log, Rules, check_configuration
from ipa_energy.ipa.service import Curves, Noise, ServiceCurve
from ipa_energy.ipa.simulated_stage import Process, Stage, System
from ipa_energy.ipa.ticks import Floats

_DRAWS = 1024


def keep(at_s: float, history_rps: Floats, current: Configuration) -> Configuration:  # noqa: ARG001  # a Decide
    """The decision to change nothing, for a configuration that is to be simulated as it is."""
    return current


def simulate(
    curves: Curves,
    arrivals_s: Floats,
    duration_s: float,
    initial: Configuration,
    decide: Decide = keep,
    rules: Rules = IPA_RULES,
    before_rps: Sequence[float] | Floats = (),
) -> Log:
    """Simulate requests that arrive at ``arrivals_s`` (rising, within ``duration_s``) until all have left.

    The pipeline starts with ``initial`` in place. Every ``interval_s``, but not at 0 and not after ``duration_s``,
    ``decide`` is asked; the history that it gets is ``before_rps``, the requests in the seconds before the begin, and
    the counts of the whole seconds since. Raises ValueError for arrivals out of order or range, and for a configuration
    that the curves don't have, whether given or decided.
    """
    arrivals = np.asarray(arrivals_s, dtype=float)
    if arrivals.size and not (arrivals[0] >= 0 and arrivals[-1] < duration_s and np.all(np.diff(arrivals) >= 0)):
        raise ValueError(f"arrivals must rise from 0 on and end before {duration_s:g} s")
    check_configuration(curves, initial)
    system = System(simpy.Environment(), rules, arrivals.tolist(), _service_times(curves, rules.seed))
    stages: list[Stage] = []
    for number, knobs in reversed(list(enumerate(initial))):
        stages.insert(0, Stage(system, number, curves[knobs.stage], knobs, stages[0] if stages else None))
    decisions: list[Decision] = []
    counts = np.bincount(arrivals.astype(np.int64), minlength=math.ceil(duration_s))
    seen_rps = np.concatenate([np.asarray(before_rps, dtype=float), counts])
    seen_rps.flags.writeable = False

    def arrive() -> Process:
        for request, arrival_s in enumerate(system.arrivals_s):
            # The clock is a sum of waits, so it may be ahead of an arrival by one rounding.
            yield system.environment.timeout(max(0.0, arrival_s - system.environment.now))
            stages[0].push((request,))

    system.environment.process(arrive())
    current = initial
    for number in range(1, math.ceil(duration_s / rules.interval_s)):
        at_s = number * rules.interval_s
        system.environment.run(until=at_s)
        in_system = int(np.searchsorted(arrivals, at_s)) - system.gone
        begin_s = time.perf_counter()
        chosen = decide(at_s, seen_rps[: len(before_rps) + int(at_s)], current)
        decide_s = time.perf_counter() - begin_s
        if chosen is not None:
            check_configuration(curves, chosen)
            for stage, knobs, before in zip(stages, chosen, current, strict=True):
                if knobs != before:
                    stage.configure(knobs)
            current = chosen
        decisions.append(Decision(at_s, current, chosen, decide_s, in_system))
    system.environment.run()
    return Log(
        curves=curves,
        rules=rules,
        arrivals_s=arrivals,
        duration_s=duration_s,
        end_s=max(duration_s, system.end_s),
        initial=initial,
        batches=tuple(system.batches),
        drops=tuple(system.drops),
        replicas=tuple(system.replicas),
        decisions=tuple(decisions),
    )


def _service_times(curves: Curves, seed: int) -> Callable[[ServiceCurve, int], float]:
    """Draws times in service; each curve has a stream of its own, so that what one draws doesn't depend on others."""
    factors = {
        curve: _factors(curve.noise, stream(seed, "service", stage, place))
        for stage, known in enumerate(curves.values())
        for place, curve in enumerate(known.values())
        if curve.noise is not None
    }

    def service_s(curve: ServiceCurve, size: int) -> float:
        seconds = float(curve.latency_s[size - 1])
        return seconds * next(factors[curve]) if curve in factors else seconds

    return service_s


def _factors(noise: Noise, generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from noise(generator, _DRAWS).tolist()
