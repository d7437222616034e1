"""The measurements of diagnose.py: reads sets and denoisers, measures over ranks, and writes tables.

The measured quantities are defined in `evaluation.noise_levels`, `evaluation.geometry`, `evaluation.agreement` and
`evaluation.clocks`.
"""
