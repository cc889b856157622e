"""Which physical GPUs this process may use, by the rules of ``CUDA_VISIBLE_DEVICES``.

In: the variable's text and the UUIDs and names of the host's GPUs in NVML's order. Out: NVML indices in the order in
which CUDA numbers them, so that ``gpu_0`` is torch's ``cuda:0``. Rules: CUDA C++ Programming Guide, "CUDA Environment
Variables": indices or unambiguous beginnings of UUIDs; what follows the first invalid entry is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipa_energy.meters.base import MeterUnavailable


def visible_gpus(
    visible: str | None, order: str | None, uuids: Sequence[str | None], names: Sequence[str], faults: str = ""
) -> tuple[int, ...]:
    """NVML indices of the visible GPUs.

    ``visible`` is ``CUDA_VISIBLE_DEVICES`` (None: unset, all GPUs), ``order`` is ``CUDA_DEVICE_ORDER``. The UUID of a
    GPU that can't be opened is None, and ``faults`` says why. Raises MeterUnavailable when none is visible, when a MIG
    slice is named, or when an index may mean different boards to CUDA and to NVML.
    """
    if not uuids:
        raise MeterUnavailable("the NVIDIA driver reports no GPU")
    if visible is None:
        entries = [str(index) for index in range(len(uuids))]
    else:
        entries = [entry.strip() for entry in visible.split(",")]
    chosen: list[int] = []
    for entry in entries:
        if entry.upper().startswith("MIG-"):
            raise MeterUnavailable(
                f"CUDA_VISIBLE_DEVICES names the MIG slice {entry}: NVML has no power of a slice, only of the whole "
                "GPU; measure on a GPU without MIG"
            )
        index = _resolve(entry, uuids)
        if index is None:
            break
        if entry.isdigit() and None in uuids:
            raise MeterUnavailable(
                f"{faults}; CUDA may number the other GPUs differently without it: name those to be measured by their "
                "UUIDs in CUDA_VISIBLE_DEVICES"
            )
        # CUDA numbers GPUs fastest first unless told otherwise, NVML by bus: only between like boards is that the same.
        if entry.isdigit() and len(set(names)) > 1 and order != "PCI_BUS_ID":
            raise MeterUnavailable(
                f"this host has different GPUs ({', '.join(sorted(set(names)))}), and CUDA may number them in another "
                "order than NVML; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or GPU UUIDs in CUDA_VISIBLE_DEVICES"
            )
        if index in chosen:
            raise MeterUnavailable(f"CUDA_VISIBLE_DEVICES={visible!r} names GPU {index} twice; name each once")
        chosen.append(index)
    if not chosen:
        raise MeterUnavailable(f"CUDA_VISIBLE_DEVICES={visible!r} leaves no GPU visible; the host has {len(uuids)}")
    return tuple(chosen)


def _resolve(entry: str, uuids: Sequence[str | None]) -> int | None:
    if entry.isdigit():
        return int(entry) if int(entry) < len(uuids) else None
    if not entry.startswith("GPU-"):
        return None
    matches = [index for index, uuid in enumerate(uuids) if uuid and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None
