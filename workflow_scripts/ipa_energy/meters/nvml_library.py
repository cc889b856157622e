"""The Python bindings of NVML: the module ``pynvml`` of the distribution nvidia-ml-py, and what may stand in its way.

Three things share the name. nvidia-ml-py provides the module. The distribution ``pynvml`` up to 11.5 brings a package
of its own that shadows it, and is refused. From 12 on it is a shell which requires nvidia-ml-py: it does no harm, but
13 warns at the import; it is named in the provenance and its warning kept from the terminal.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Any

from ipa_energy.meters.base import MeterUnavailable


def load_pynvml() -> Any:
    """The module ``pynvml`` of nvidia-ml-py. Raises MeterUnavailable when it is absent, too old or shadowed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import pynvml  # noqa: PLC0415 - only where a GPU is asked for, so that its absence is a reason, not a crash
    except ImportError as error:
        raise MeterUnavailable(f"pynvml can't be imported ({error}); pip install nvidia-ml-py") from error
    if hasattr(pynvml, "__path__") or not hasattr(pynvml, "NVML_FI_DEV_POWER_INSTANT"):
        owners = metadata.packages_distributions().get("pynvml", [])
        others = sorted({owner for owner in owners if owner != "nvidia-ml-py"}) or ["nvidia-ml-py"]
        named = ", ".join(f"{name} {_version(name)}" for name in others)
        raise MeterUnavailable(
            f"`import pynvml` finds {named} at {pynvml.__file__}, which is deprecated or too old and lacks the "
            f"named power fields; pip uninstall -y {' '.join(others)} && "
            "pip install --force-reinstall 'nvidia-ml-py>=12.535'"
        )
    return pynvml


def versions() -> dict[str, str | None]:
    """Version of the bindings, and a sentence about the deprecated distribution where that is installed beside them."""
    shell = _version("pynvml")
    return {
        "nvidia_ml_py": _version("nvidia-ml-py"),
        "bindings_note": None
        if shell is None
        else f"deprecated distribution pynvml {shell} is installed beside nvidia-ml-py; pip uninstall pynvml",
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
