"""The report of an evaluation: a page, tables and pictures."""
