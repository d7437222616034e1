"""The commands of diagnose.py: read image sets and denoisers, distribute a measurement over ranks, and write tables.

The measured quantities are defined in `evaluation.noise_levels`, `evaluation.geometry`, `evaluation.agreement` and
`evaluation.clocks`.
"""
