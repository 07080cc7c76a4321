"""Saved machines: the file (format), what of RAM is in it (pages), what it says (contents), and how a machine
goes in and comes out (machine).

docs/checkpoint-format.md describes the file.
"""
