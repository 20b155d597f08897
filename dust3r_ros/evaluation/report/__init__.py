"""Output of an evaluation: a JSON file per run, tables beside published figures, pages; changes between runs."""
