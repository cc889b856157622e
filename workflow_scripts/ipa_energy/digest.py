"""Digests of the code that decides what a rule yields: for measuring, profiling, analysing, and IPA's own steps.

Snakemake sees a script's time stamp, not its content, and no imported module at all. The rules carry these digests as
parameters instead: a change of measuring code re-measures and a change of analysing code analyses again, whereas a
touched file, a fresh checkout, a comment, a docstring or a formatting does nothing.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

_LIBRARY = Path(__file__).resolve().parent
MEASURING_CODE = (
    "measurement.py",
    "child.py",
    "phases.py",
    "deployment.py",
    "observation.py",
    "sections.py",
    "supervisor.py",
    "job.py",
    "energy.py",
    "environment.py",
    "aliasing.py",
    "gates.py",
    "host.py",
    "serving",
    "meters",
    "pipelines",
    "platforms",
)


PROFILING_CODE = ("profiling.py", "profile_record.py", "profile_supervisor.py")

PROFILE_TABLE_CODE = (
    *(f"ipa/{name}.py" for name in ("accuracy", "allocation", "measured_profile", "options", "profile")),
    *("ipa/profile_table.py", "ipa/settings.py", "profile_record.py"),
)

DESIGN_CODE = tuple(f"design{part}.py" for part in ("", "_check", "_exchange"))

PREDICTOR_CODE = tuple(
    f"ipa/{name}.py"
    for name in ("loads", "lstm", "predictors", "random_streams", "trace_files", "trained_predictors", "workload")
)

FEASIBLE_CODE = tuple(
    f"ipa/{name}.py"
    for name in (
        "accuracy",
        "allocation",
        "feasible",
        "measured_marks",
        "options",
        "profile",
        "settings",
        "ticks",
        "totals",
    )
)

LIVE_CODE = (
    *(f"live{part}.py" for part in ("", "_job", "_outcome", "_record", "_supervisor")),
    *(f"ipa/{name}.py" for name in ("accuracy", "arrival_times", "baselines", "controller", "deciding", "knapsack")),
    *(f"ipa/{name}.py" for name in ("objective", "options", "profile", "profile_table", "settings", "solver", "ticks")),
    *(
        f"ipa/{name}.py"
        for name in ("allocation", "totals", "predictors", "random_streams", "trained_predictors", "lstm")
    ),
)

ANALYSING_CODE = (
    *("analysis", "explorer", "external", "figures"),
    *("cost.py", "energy.py", "record.py", "names.py", "quick_schema.py"),
    # What choices without energy are made by.
    *(f"ipa/{name}.py" for name in ("objective", "front", "space_savings")),
    *("configuration.py", "plan.py"),
)

LOOKING_CODE = (
    *("analysis", "configuration.py", "cost.py", "plan.py", "record.py", "names.py", "quick_schema.py"),
    *("ipa/objective.py", "ipa/front.py"),
)

ERROR_RATES_CODE = (
    *(f"error_rates/{name}.py" for name in ("run", "service", "studies", "truths")),
    *("analysis", "configuration.py", "cost.py", "ipa/objective.py", "ipa/front.py"),
)
DESIGNS_CODE = (
    *ERROR_RATES_CODE,
    "error_rates/designs.py",
    "error_rates/design_runs.py",
    *DESIGN_CODE,
)
DESIGNS_SUMMARY_CODE = ("error_rates/design_summary.py", "figures/designs.py", "figures/style.py", "analysis/tables.py")
RATES_SUMMARY_CODE = ("error_rates", "figures/error_rates.py", "figures/style.py", "analysis/tables.py")

IPA_CODE = (
    "ipa",
    "figures",
    "analysis/aggregate.py",
    "analysis/tables.py",
    "analysis/wording.py",
    "serving/arrivals.py",
    "serving/batching.py",
    "configuration.py",
    "cost.py",
    "ipa_config.py",
    "profile_record.py",
    "live_record.py",
)


_PAGE = (".html", ".css", ".js")
"""Suffixes of what a page is made of, which counts as code byte by byte."""


def _files(names: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for name in names:
        path = _LIBRARY / name
        found += sorted(p for p in path.rglob("*") if p.suffix in (".py", *_PAGE)) if path.is_dir() else [path]
    return found


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a bare string: a docstring, or the text below a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _meaning(source: str) -> str:
    """Source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def _content(path: Path) -> str:
    """What counts of a file; some are in several digests."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix in _PAGE else _meaning(text)


def _digest(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in _files(names):
        digest.update(f"{path.relative_to(_LIBRARY)}\n{_content(path)}\n".encode())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=1)
def protocol_digest() -> str:
    """Twelve hex digits that change when, and only when, the measuring code changes its meaning."""
    return _digest(MEASURING_CODE)


@lru_cache(maxsize=1)
def profiling_digest() -> str:
    """The same for what profiling has of its own, besides the measuring code."""
    return _digest(PROFILING_CODE)


@lru_cache(maxsize=1)
def ipa_digest() -> str:
    """The same for the code that makes profile, spaces, optima and adaptation from what was profiled."""
    return _digest(IPA_CODE)


@lru_cache(maxsize=1)
def profile_table_digest() -> str:
    """The same for what makes the profile of its files: live runs and `measure: feasible` hang on it, so no figures."""
    return _digest(PROFILE_TABLE_CODE)


@lru_cache(maxsize=1)
def predictor_digest() -> str:
    """The same for loads and predictors, on which live runs hang."""
    return _digest(PREDICTOR_CODE)


@lru_cache(maxsize=1)
def feasible_digest() -> str:
    """The same for what decides which configurations are feasible, on which `measure: feasible` hangs."""
    return _digest(FEASIBLE_CODE)


@lru_cache(maxsize=1)
def live_digest() -> str:
    """The same for what a live run has of its own, and for what decides in it."""
    return _digest(LIVE_CODE)


@lru_cache(maxsize=1)
def analysis_digest() -> str:
    """The same for the code that makes tables, verdict and figures of the records."""
    return _digest(ANALYSING_CODE)


@lru_cache(maxsize=1)
def design_digest() -> str:
    """The same for what draws and checks a fraction of a grid."""
    return _digest(DESIGN_CODE)


@lru_cache(maxsize=1)
def error_rates_digest() -> str:
    """The same for the studies that are simulated, and for the rule that judges them."""
    return _digest(ERROR_RATES_CODE)


@lru_cache(maxsize=1)
def rates_summary_digest() -> str:
    """The same for what makes rates and a figure of the simulated studies."""
    return _digest(RATES_SUMMARY_CODE)


@lru_cache(maxsize=1)
def looking_digest() -> str:
    """The same for what a look at a sequential study finds, on which hangs what is measured next."""
    return _digest(LOOKING_CODE)


@lru_cache(maxsize=1)
def designs_digest() -> str:
    """The same for the studies that are simulated to compare designs."""
    return _digest(DESIGNS_CODE)


@lru_cache(maxsize=1)
def designs_summary_digest() -> str:
    """The same for what makes a table and a figure of them."""
    return _digest(DESIGNS_SUMMARY_CODE)
