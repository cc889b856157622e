"""The proof: machines whose energy is known, and what the meters, Zeus and CodeCarbon make of them.

``PYTHONPATH=tests python -m proof`` plays every scenario to every tool and writes the table of docs/proof.md;
``tests/test_proof.py`` plays them to our meters and holds the figures against the truth.
"""
