"""The three answers that a rule of the verdict can give."""

from __future__ import annotations

COUPLED, DECOUPLED, INCONCLUSIVE = "coupled", "decoupled", "inconclusive"
