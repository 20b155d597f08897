"""What an evaluation leaves: a JSON file per run, tables beside published figures, pages; what changed between runs."""
