"""Takes the place that the command line names, over the stub of NVML, and opens the meter; prints JSON.

A process of its own, because what CUDA may see must be said before anything loads it.
"""

import json
import os
import sys

from ipa_energy.meters.nvml import NvmlMeter
from ipa_energy.place import WrongPlaceError, take_place

if __name__ == "__main__":
    try:
        take_place(None, sys.argv[1])
    except WrongPlaceError as error:
        print(json.dumps({"error": str(error)}))
    else:
        gpus = NvmlMeter().provenance()["gpus"]
        measured = {name: gpu["uuid"] for name, gpu in gpus.items()}
        print(json.dumps({"visible": os.environ["CUDA_VISIBLE_DEVICES"], "measured": measured}))
