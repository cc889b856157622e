"""Figures from tables: data frames in, SVG and PNG files out. One module per figure; :mod:`.style` is what they share."""
