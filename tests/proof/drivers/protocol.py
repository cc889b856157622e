"""What a tool's driver says to the player: a line of JSON for each request. Runs in the tool's own environment.

A driver is a script that calls :func:`serve` with a function that opens the tool and gives its ``begin`` and ``end``.
What the tool prints, warns and logs goes to standard error and is handed on as ``told``: whoever uses the tool would
have seen it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

Begin = Callable[[], None]
End = Callable[[], dict[str, Any]]
LONGEST_SPEECH = 1 << 20


def serve(open_tool: Callable[[dict[str, Any]], tuple[Begin, End]]) -> None:
    """Answer ``open``, ``begin`` and ``end``, each with its times before and after the call, or with the exception."""
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        os.dup2(2, 1)
        heard = 0
        calls: dict[str, Callable[[], Any]] = {}

        def opened() -> None:
            calls["begin"], calls["end"] = open_tool(json.loads(sys.argv[1]))

        calls["open"] = opened
        for line in sys.stdin:
            call = calls[line.strip()]
            before_s = time.monotonic()
            try:
                answer = {"result": call()}
            except Exception as error:
                answer = {"exception": f"{type(error).__name__}: {error}"}
            answer["time_s"] = [before_s, time.monotonic()]
            sys.stderr.flush()
            # Not by a seek: what is written goes to the same place in the file.
            words = os.pread(said.fileno(), LONGEST_SPEECH, heard)
            heard += len(words)
            answer["told"] = words.decode(errors="replace")
            print(json.dumps(answer), file=answers, flush=True)
