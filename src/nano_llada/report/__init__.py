"""Reports of evaluations and training runs: one view of the records, rendered as Markdown, HTML and JSON."""
