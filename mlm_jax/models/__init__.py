"""Models: a page of composition each, `batch -> dict`."""
