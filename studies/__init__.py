"""Studies: many trainings and evaluations that change one factor at a time, kept in one folder and run to the end."""
