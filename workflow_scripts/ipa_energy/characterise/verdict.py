"""What a channel sees, in words: from the fitted window, or from the response where no window fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ipa_energy.characterise.bootstrap import Interval
from ipa_energy.characterise.response import Response
from ipa_energy.characterise.window import LONGEST_S, WindowFit

Kind = Literal["part_of_period", "full_period", "running_average", "exponential_average", "not_identified"]

LEAST_R2 = 0.5
"""Below this, most of a channel's variance has other causes than the load."""
FULL = (0.9, 1.1)
PART_BELOW, LONGER_ABOVE = 0.95, 1.05
"""A window is a part of the period when the whole interval of its share lies below 0.95, longer when above 1.05, and
the full period when the whole interval lies within 0.9 to 1.1. An interval wider than these decides nothing."""
WIDEST = 1.0
"""An interval of the width as wide as the width itself tells no width."""
BRIEF_S = 0.003
"""Windows below this are given as an upper bound: updates and edges of the load are not known more closely."""
MISFIT, MISFIT_R2 = 1.5, 0.01
"""A window is not the shape where the free response leaves less than 1/1.5 of its residual variance, and explains at
least 0.01 more of the whole."""


@dataclass(frozen=True)
class Verdict:
    """What a channel sees. ``basis`` says which estimate: ``window`` or ``response``.

    ``width_s`` is the averaging window (for an exponential average its time constant); ``covered_share`` the part of
    each update period that is seen, at most 1. Both are None where ``kind`` is ``not_identified``.
    """

    kind: Kind
    text: str
    basis: Literal["window", "response"] | None = None
    width_s: Interval | None = None
    covered_share: Interval | None = None


def unidentified(reason: str) -> Verdict:
    """No verdict, and why."""
    return Verdict("not_identified", f"not identified: {reason}")


def window_fits(window: WindowFit, response: Response) -> bool:
    """Whether the fitted window explains the readings about as well as weights of any shape."""
    return window.residual_w**2 <= MISFIT * response.residual_w**2 or response.r2 - window.r2 < MISFIT_R2


def judge(counter: bool, period_s: float, resolved: bool, window: WindowFit, response: Response) -> Verdict:
    """The verdict on a channel with updates every ``period_s``.

    ``resolved`` is False where updates come no slower than polls: then nothing is said about parts of a period.
    """
    if max(window.r2, response.r2) < LEAST_R2:
        return unidentified(
            f"the load explains only {max(window.r2, response.r2, 0.0):.0%} of the variance of power; was the GPU's "
            "power limited, or is the load on another GPU?"
        )
    if response.r2 <= response.chance_r2:
        return unidentified("the load of other moments explains power as well as that before the updates")
    if not window_fits(window, response):
        return _by_response(counter, period_s, response)
    if window.width_s.high >= LONGEST_S or window.shape.memory_s >= LONGEST_S:
        return unidentified(f"it looks back over more than the {LONGEST_S:g} s that were searched")
    if window.ramp_s.value > 2 * window.width_s.value and window.ramp_s.value > period_s / 2:
        return _exponential(window)
    width_s = window.width_s
    if width_s.high - width_s.low > WIDEST * width_s.value and width_s.high > BRIEF_S:
        return unidentified(f"the window's interval is too wide, {milliseconds(width_s)}; a longer sequence may help")
    if not resolved:
        text = f"follows the load within {milliseconds(width_s)}; updated about as often as it was polled"
        return Verdict("full_period" if counter else "running_average", text, "window", width_s, Interval(1, 1, 1))
    share = width_s.scaled(1 / period_s)
    capped = Interval(*(min(part, 1.0) for part in (share.value, share.low, share.high)))
    if share.high < PART_BELOW:
        seen = f"at most {width_s.high * 1e3:.2g} ms" if width_s.high < BRIEF_S else milliseconds(width_s)
        text = f"sees {seen} of each {period_s * 1e3:.4g} ms period ({capped.value:.0%})"
        return Verdict("part_of_period", text, "window", width_s, capped)
    if share.low > LONGER_ABOVE:
        average = f"running average over {seconds(width_s)}"
        text = f"integrates the full signal, smoothed by a {average}" if counter else average
        return Verdict("running_average", text, "window", width_s, Interval(1, 1, 1))
    if FULL[0] <= share.low and share.high <= FULL[1]:
        verb = "integrates" if counter else "averages"
        seen = f"seen: {share.value:.3f} of it, CI {_range(share, 1, 3)}"
        text = f"{verb} the full period of {period_s * 1e3:.4g} ms ({seen})"
        return Verdict("full_period", text, "window", width_s, capped)
    return unidentified(
        f"the window is {milliseconds(width_s)} of a {period_s * 1e3:.4g} ms period, which may be a part of it or all"
    )


def _exponential(window: WindowFit) -> Verdict:
    text = f"exponential average with a time constant of {seconds(window.ramp_s)}"
    return Verdict("exponential_average", text, "window", window.ramp_s, Interval(1, 1, 1))


def _by_response(counter: bool, period_s: float, response: Response) -> Verdict:
    share, width_s = response.covered_share, response.width_s
    text = (
        f"no simple window: 90 % of the weight lies within {milliseconds(width_s)}, and covers {share.value:.0%} (CI "
        f"{_range(share, 100)}) of each {period_s * 1e3:.4g} ms period"
    )
    if share.high < PART_BELOW:
        return Verdict("part_of_period", text, "response", width_s, share)
    if share.low >= FULL[0]:
        kind: Kind = "full_period" if counter or width_s.value <= FULL[1] * period_s else "running_average"
        return Verdict(kind, text, "response", width_s, share)
    return unidentified(text)


def _range(figure: Interval, factor: float, digits: int = 0) -> str:
    return f"{figure.low * factor:.{digits}f}-{figure.high * factor:.{digits}f}"


def milliseconds(figure: Interval) -> str:
    """A time and its interval in ms, with as many digits as the interval bears."""
    digits = 1 if (figure.high - figure.low) * 1e3 < 2 else 0
    return f"{figure.value * 1e3:.{digits}f} ms (CI {_range(figure, 1e3, digits)})"


def seconds(figure: Interval) -> str:
    """A time and its interval in s, or in ms below 0.1 s."""
    if figure.value < 0.1:
        return milliseconds(figure)
    return f"{figure.value:.3f} s (CI {_range(figure, 1, 3)})"
