"""Many recordings mapped by many processes, on one machine or several."""
