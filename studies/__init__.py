"""Studies: sets of training runs and their evaluations, which vary training-set size and other factors.

Each study has one folder, and an interrupted study can be resumed.
"""
