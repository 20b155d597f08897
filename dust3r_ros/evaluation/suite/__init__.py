"""All available scenes through our mapper and its peers, each in its own process, into one table."""
