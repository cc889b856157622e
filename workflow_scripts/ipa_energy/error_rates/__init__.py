"""How often the rule of the verdict is wrong, and how often it decides: simulated studies whose truth is known."""
