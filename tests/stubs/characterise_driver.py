"""Runs the command ``python -m ipa_energy.characterise`` with a stub script whose times count from now.

The first argument is a template of the script and, behind @ each, the delays (s) that become the times {0}, {1}... in
it. Now is after the imports, because these take long on a busy host.
"""

import os
import sys
import time
from pathlib import Path

from ipa_energy.characterise.command import main

if __name__ == "__main__":
    template, *delays_s = sys.argv[1].split("@")
    now_s = time.monotonic()
    Path(os.environ["NVML_STUB"]).write_text(template.format(*(now_s + float(delay_s) for delay_s in delays_s)))
    sys.exit(main(sys.argv[2:]))
