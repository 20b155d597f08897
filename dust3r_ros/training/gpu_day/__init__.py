"""One command that turns half an hour of a GPU into weights, on a machine with torch and little else."""
