"""From a run folder to tables, plots, verdicts and a report. Nothing here starts or calls a server."""
