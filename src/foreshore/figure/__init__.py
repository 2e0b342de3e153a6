"""Figures of plain marks, as SVG in pages and as PNG, with no library that draws."""
