"""Figures from tables: data frames in, SVG and PNG out. One module per figure; :mod:`.style` is what they share."""
