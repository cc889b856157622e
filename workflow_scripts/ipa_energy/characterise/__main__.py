"""Entry point of ``python -m ipa_energy.characterise``."""

import sys

from ipa_energy.characterise.command import main

if __name__ == "__main__":
    sys.exit(main())
