"""The frame of every measuring process: a job in, a result out, whatever happens in between.

The supervisor (:mod:`.supervisor`) starts ``python -m MODULE JOB RESULT --parent PID``, where JOB and RESULT are
descriptors of memory files: they go with the processes, so that no kill leaves a file behind. RESULT gets lines of
JSON, of which the last whole one counts:

- ``{"result": ...}``;
- ``{"failed": reason}`` where what was to be measured could not be;
- ``{"infrastructure": reason}`` for a fault of a disk, a file or the installation, no property of what was measured.

Before it there may be ``{"partial": ...}``, what is there so far.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from typing import Any

from ipa_energy.memory_file import append_line, read_text
from ipa_energy.serving.preload import die_with_parent
from ipa_energy.serving.processes import ServerError, ServingError

Say = Callable[[str], None]
Keep = Callable[[Any], None]


def main(measure: Callable[[str, Say, Keep], Any]) -> None:
    """Call ``measure`` with the text of the job, a voice for the log, and a way to keep what is there so far.

    What comes of it is left in RESULT.
    """
    parser = argparse.ArgumentParser(description="Run one measuring job.")
    parser.add_argument("job", type=int, help="descriptor to read the job from")
    parser.add_argument("result", type=int, help="descriptor to write the result to")
    parser.add_argument("--parent", type=int, required=True, help="process id of the supervisor, to end with")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    result: dict[str, Any]
    kept: dict[str, Any] = {}

    def say(text: str) -> None:
        print(f"{time.monotonic():.3f} {text}", flush=True)

    def keep(partial: Any) -> None:
        kept["partial"] = partial
        append_line(arguments.result, kept)

    try:
        job = read_text(arguments.job)
        result = {"result": measure(job, say, keep)}
    except ServingError as error:
        result = kept | {"failed": str(error)}
    except (OSError, ServerError) as error:
        traceback.print_exc()
        result = {"infrastructure": f"{type(error).__name__}: {error}"}
    except Exception as error:
        traceback.print_exc()
        result = kept | {"failed": f"{type(error).__name__}: {error}"}
    append_line(arguments.result, result)
