"""The back end: everything that changes the map, in its own process when cameras are live."""
