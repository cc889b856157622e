"""What a GPU's power sensor sees: update period, delay, window and settling of NVML's energy counter and power fields.

``python -m ipa_energy.characterise`` switches the load of one GPU on and off in a pseudo-random sequence, records every
channel of NVML meanwhile, and identifies each channel's response to the load. In: a GPU with nobody else on it. Out: a
JSON result, the raw samples, a figure. See docs/characterise.md.
"""
