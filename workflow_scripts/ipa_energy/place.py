"""Where a job belongs: on which host, and on which of its GPUs. A job that came to run elsewhere measures nothing.

The host and the GPU that the plan gives a job go in; the process then sees that GPU only, or an error says what is
there instead and what to do. It must be called before anything loads CUDA; child processes inherit what it sets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ipa_energy.host import host_name, same_host
from ipa_energy.platforms.gpus import GpuUnavailable, opened_nvml, uuids
from ipa_energy.supervisor import InfrastructureError


class WrongPlaceError(InfrastructureError):
    """The job runs on another host than it belongs to, or its GPU is not there. The text says what to do."""


def here(hosts: Iterable[str]) -> str | None:
    """The one of ``hosts`` that this process runs on; None where it is none of them."""
    own = host_name()
    return next((host for host in hosts if same_host(host, own)), None)


def take_place(host: str | None, gpu: str | None) -> None:
    """Make sure that this is ``host``, and let this process and its children see ``gpu`` only; None is anywhere, any.

    ``gpu`` is a UUID or an unambiguous beginning of one. It is named to CUDA and to the meters alike
    (:mod:`.meters.visible_devices`). Raises WrongPlaceError.
    """
    if host and not same_host(host, host_name()):
        raise WrongPlaceError(
            f"this job belongs to host {host}, and runs on {host_name()}: start the workflow on {host}, or through a "
            "cluster profile that sends each job to its host, or name other hosts in the config (`hosts`)"
        )
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = _found(gpu)


def _found(gpu: str) -> str:
    """The whole UUID of a GPU of this host."""
    try:
        with opened_nvml() as nvml:
            there = uuids(nvml)
    except GpuUnavailable as error:
        raise WrongPlaceError(
            f"this job belongs to {gpu} of {host_name()}, whose GPUs can't be listed: {error}"
        ) from error
    matches = [uuid for uuid in there if uuid.lower().startswith(gpu.lower())]
    if len(matches) != 1:
        found = "several GPUs of that beginning" if matches else "no such GPU"
        raise WrongPlaceError(
            f"this job belongs to {gpu} of {host_name()}, which shows {found}; it shows {', '.join(there) or 'none'}. "
            "Name one of these in the config (`hosts`), or ask the scheduler for all GPUs of the node"
        )
    return matches[0]
