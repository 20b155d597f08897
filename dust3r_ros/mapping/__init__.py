"""The back end: all that changes the map, in a process of its own when cameras are live."""
