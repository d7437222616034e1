"""The measurements of diagnose.py: read sets and denoisers, measure over ranks, and write tables.

What is measured is defined next to this folder, in `evaluation.noise_levels`, `evaluation.geometry`,
`evaluation.agreement` and `evaluation.clocks`.
"""
