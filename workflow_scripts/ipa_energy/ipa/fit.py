"""Latency, and energy, of a batch as a quadratic of its size: IPA's l(b) = g + beta b + alpha b^2, with its error.

Least squares over the measured batch sizes of one (variant, cores). Measured figures are never replaced: a fit only
fills batch sizes that a profile lacks, between the smallest and the largest that were measured, and such rows say
``fitted`` in the column ``source``. IPA's published runs use measured tables as well; its code can replace every
figure by the fit, which this library does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ipa_energy.ipa.profile import Profile, curves, make_profile
from ipa_energy.ipa.profile_table import KEY, LATENCIES, ProfileError
from ipa_energy.ipa.ticks import Floats


@dataclass(frozen=True, slots=True)
class QuadraticFit:
    """y(b) = constant + linear b + quadratic b^2, fitted to ``points`` batch sizes in [smallest, largest].

    With two batch sizes it is a straight line and with one a constant: ``degree`` says so. ``rmse`` is the root mean
    square residual in the unit of y, and ``max_relative_error`` the largest residual over its figure; both are 0 where
    the curve has as many coefficients as points. ``prediction_error`` is the largest relative error at a batch size
    between the others when that size is left out of the fit: the error of filling a gap. None below four points.
    """

    constant: float
    linear: float
    quadratic: float
    degree: int
    points: int
    smallest: int
    largest: int
    rmse: float
    max_relative_error: float
    prediction_error: float | None

    def __call__(self, batch: ArrayLike) -> Floats:
        """The curve at these batch sizes, in the unit of y."""
        b = np.asarray(batch, dtype=float)
        return np.asarray(self.constant + self.linear * b + self.quadratic * b**2, dtype=float)


def fit_quadratic(batch: ArrayLike, values: ArrayLike) -> QuadraticFit:
    """Fit ``values`` of shape (n,) at distinct batch sizes. Raises ValueError without any, or with one size twice."""
    b, y = np.asarray(batch, dtype=float), np.asarray(values, dtype=float)
    if len(b) == 0 or len(np.unique(b)) != len(b) or not np.all(np.isfinite(y)):
        raise ValueError(f"a fit needs one finite figure at each of one or more batch sizes; got {y} at {b}")
    order = np.argsort(b)
    b, y = b[order], y[order]
    degree = min(2, len(b) - 1)
    coefficients = _coefficients(b, y, degree)
    curve = np.polynomial.polynomial.polyval(b, coefficients)
    spare = len(b) > degree + 1
    constant, linear, quadratic = np.pad(coefficients, (0, 2 - degree)).tolist()
    return QuadraticFit(
        constant=constant,
        linear=linear,
        quadratic=quadratic,
        degree=degree,
        points=len(b),
        smallest=int(b[0]),
        largest=int(b[-1]),
        rmse=math.sqrt(float(np.mean((curve - y) ** 2))) if spare else 0.0,
        max_relative_error=_largest_relative(curve, y) if spare else 0.0,
        prediction_error=_left_out(b, y) if spare else None,
    )


def _coefficients(b: Floats, y: Floats, degree: int) -> Floats:
    # Scaled to [0, 1]: the normal equations of 1, 64 and 4096 are badly conditioned.
    scale = b.max()
    found = np.linalg.lstsq(np.vander(b / scale, degree + 1, increasing=True), y, rcond=None)[0]
    return np.asarray(found / scale ** np.arange(degree + 1), dtype=float)


def _largest_relative(curve: NDArray[Any], y: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.abs(curve - y) / np.abs(y)))


def _left_out(b: Floats, y: Floats) -> float:
    errors = []
    for i in range(1, len(b) - 1):
        kept = np.arange(len(b)) != i
        curve = np.polynomial.polynomial.polyval(b[i : i + 1], _coefficients(b[kept], y[kept], 2))
        errors.append(_largest_relative(curve, y[i : i + 1]))
    return max(errors)


def latency_fits(profile: Profile, latency: str = "p99") -> pd.DataFrame:
    """The fit of the latency of every (stage, variant, cores, GPU share), see :func:`quadratic_fits`; in s."""
    return quadratic_fits(profile, {stage.stage: stage.latency_s(latency) for stage in profile.stages})


def quadratic_fits(profile: Profile, values: Mapping[str, Floats]) -> pd.DataFrame:
    """The fit of a figure of every (stage, variant, cores, GPU share) as a table: coefficients and errors.

    ``values`` maps each stage to the figure of its rows; coefficients and ``rmse`` are in its unit. ``negative_at``
    lists whole batch sizes in the measured range at which the curve is not above 0; IPA's code falls back to a straight
    line there, :func:`fill_batches` refuses to fill them.
    """
    rows = []
    for stage in profile.stages:
        figure = values[stage.stage]
        for _, at in curves(stage):
            fit = fit_quadratic(stage.batch[at], figure[at])
            inside = np.arange(fit.smallest, fit.largest + 1)
            first = at[0]
            rows.append(
                {
                    "stage": stage.stage,
                    "variant": stage.variants[stage.variant[first]],
                    "cores": int(stage.cores[first]),
                    "gpu_share": float(stage.gpu_share[first]),
                    "constant": fit.constant,
                    "linear": fit.linear,
                    "quadratic": fit.quadratic,
                    "degree": fit.degree,
                    "points": fit.points,
                    "rmse": fit.rmse,
                    "max_relative_error": fit.max_relative_error,
                    "prediction_error": fit.prediction_error,
                    "negative_at": " ".join(map(str, inside[fit(inside) <= 0])),
                }
            )
    return pd.DataFrame(rows).astype({"prediction_error": float})


def fill_batches(profile: Profile, batches: Sequence[int]) -> Profile:
    """The profile with a fitted row for every wanted batch size that a (variant, cores) lacks.

    Latencies, and energy where all measured rows have it, come from their quadratics; throughput is b / l(b), as in
    IPA's code, with the mean latency where there is one; waiting power and memory are left empty unless they are the
    same in all rows. Raises ProfileError for a size outside the measured range, for fewer than three measured sizes,
    and where the curve isn't above 0.
    """
    columns = [column for column in LATENCIES if column in profile.table.columns]
    added = []
    for key, rows in profile.table.groupby(list(KEY[:-1]), sort=False):
        name = f"{key[0]}/{key[1]} on {key[2]} cores"
        known = rows["batch"].to_numpy()
        for batch in sorted(set(batches) - set(known.tolist())):
            if len(known) < 3:
                raise ProfileError(f"{name} has {len(known)} batch sizes: a quadratic needs 3 to fill batch {batch}")
            if not known.min() < batch < known.max():
                raise ProfileError(f"{name} was profiled from batch {known.min()} to {known.max()}: measure {batch}")
            row = {column: value for column, value in rows.iloc[0].items() if rows[column].nunique(dropna=False) == 1}
            row |= {"batch": batch, "source": "fitted"}
            for column in [*columns, *(["energy_j"] if _has_energy(rows) else [])]:
                row[column] = float(fit_quadratic(known, rows[column])(batch))
                if column in columns and row[column] <= 0:
                    raise ProfileError(f"the fit of {column} of {name} is {row[column]:g} at batch {batch}: measure it")
            row["throughput_rps"] = batch / row["latency_mean_s" if "latency_mean_s" in columns else columns[0]]
            added.append(row)
    table = profile.table
    if added:
        table = table.assign(source=table.get("source", pd.Series("measured", index=table.index)))
        table = pd.concat([table, pd.DataFrame(added).reindex(columns=table.columns)], ignore_index=True)
    return make_profile(table, profile.energy_kind)


def _has_energy(rows: pd.DataFrame) -> bool:
    return "energy_j" in rows.columns and bool(rows["energy_j"].notna().all())
