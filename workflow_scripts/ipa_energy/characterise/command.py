"""The command ``python -m ipa_energy.characterise``: record, write, judge, draw, say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ipa_energy.characterise.analysis import analyse, courses_of
from ipa_energy.characterise.figure import draw
from ipa_energy.characterise.load import LoadError, StubBoard, cuda_load, file_load
from ipa_energy.characterise.protocol import Settings, open_gpu, record
from ipa_energy.characterise.recording import Recording, read_recording, write_recording
from ipa_energy.characterise.report import text
from ipa_energy.figures.style import save
from ipa_energy.files import write_text
from ipa_energy.lock import measurement_lock
from ipa_energy.meters.base import MeterUnavailable

RESULT, FIGURE = "characterisation.json", "characterisation"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m ipa_energy.characterise",
        description="Find out what one GPU's energy counter and power readings see of its load. Takes about "
        f"{usual.total_s / 60:.0f} minutes and a GPU with nobody else on it; changes no clock, limit or mode.",
    )
    parser.add_argument("--out", type=Path, default=Path("results/characterise"), help="folder (%(default)s)")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU, as nvidia-smi counts (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=usual.sequence_s, help="length of the pseudo-random load (%(default)s)"
    )
    parser.add_argument(
        "--steady-seconds", type=float, default=usual.steady_s, help="length of each steady phase (%(default)s)"
    )
    parser.add_argument(
        "--pulse-ms", type=float, nargs=2, default=[1e3 * s for s in usual.pulse_s], metavar=("FROM", "TO"),
        help="shortest and longest pulse (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=usual.seed, help="of the sequence and the resampling (%(default)s)")
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="judge a recording once more; needs no GPU")
    parser.add_argument(
        "--stub-load", type=Path, metavar="PATH", help="load no GPU, but write power over time for a stub of NVML"
    )
    found = parser.parse_args(arguments)
    if found.seconds < 5 or found.steady_seconds < 0.5:
        parser.error("--seconds wants 5 or more, --steady-seconds 0.5 or more: less identifies nothing")
    if not 1 <= found.pulse_ms[0] <= found.pulse_ms[1] <= 1000:
        parser.error("--pulse-ms wants two lengths in ascending order, from 1 to 1000")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when there is a result, 1 with a reason on stderr when there is none."""
    chosen = parse(arguments)
    try:
        if chosen.again:
            folder = chosen.again
            recording = read_recording(folder)
        else:
            recording = _record(chosen)
            stamp = datetime.fromisoformat(recording.facts["started_utc"]).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
            folder = chosen.out / recording.facts["gpu"]["uuid"] / stamp
            write_recording(folder, recording)
            recording = read_recording(folder)  # judged as it is kept, to the last digit
    except (MeterUnavailable, LoadError, OSError) as error:
        print(f"not characterised: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("not characterised: interrupted; the load has ended", file=sys.stderr)
        return 130
    result = conclude(recording, folder)
    print()
    print(text(result))
    print(f"\n{folder / RESULT}, and beside it the figure and the raw samples")
    return 0


def _record(chosen: argparse.Namespace) -> Recording:
    settings = Settings(
        sequence_s=chosen.seconds,
        steady_s=chosen.steady_seconds,
        pulse_s=(chosen.pulse_ms[0] / 1e3, chosen.pulse_ms[1] / 1e3),
        seed=chosen.seed,
    )

    def say(line: str) -> None:
        print(line, flush=True)

    with (
        measurement_lock("characterising a GPU", say, lambda: None),
        open_gpu(chosen.gpu) as gpu,
    ):
        say(f"characterising GPU {gpu.index} ({gpu.name}), about {settings.total_s:.0f} s")
        load = file_load(chosen.stub_load, StubBoard()) if chosen.stub_load else cuda_load(gpu.uuid)
        return record(gpu, load, settings, say)


def conclude(recording: Recording, folder: Path) -> dict[str, Any]:
    """Judge a recording; write result and figure into its folder. The same recording gives the same bytes."""
    result = analyse(recording)
    write_text(folder / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
    figure = draw(recording, result, courses_of(recording)[0])
    save(figure, [folder / f"{FIGURE}.{kind}" for kind in ("svg", "png")])
    return result
