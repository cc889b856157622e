"""A campaign of faults against the real workflow on a tiny plan: what was promised must hold after each of them.

``PYTHONPATH=tests python -m faults --moments 50 --seed 1 --out table.md``
"""
