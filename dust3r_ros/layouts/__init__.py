"""How published data lies on disk: file formats and annotations that several readers share."""
