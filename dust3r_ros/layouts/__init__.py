"""File formats and annotations of published data sets, shared by several readers."""
