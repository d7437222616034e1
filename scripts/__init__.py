"""Pages with the commands of each sweep, and the demo."""
