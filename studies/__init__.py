"""Studies: training runs with their evaluations, by factor value and training-set size, in one resumable folder."""
