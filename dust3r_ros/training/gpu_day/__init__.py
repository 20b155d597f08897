"""One command that turns half an hour of a GPU into weights, on a machine that has torch and little else."""
