"""Studies: many training and evaluation runs that vary one factor at a time, stored in one folder and resumable."""
