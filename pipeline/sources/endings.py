"""Endings of image files: those that are decoded, and those that are counted and rejected."""

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# Decoding refuses these. They are listed so that they are counted, not left out without a word.
OTHERS = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".svg", ".jfif", ".jp2", ".jxl")
