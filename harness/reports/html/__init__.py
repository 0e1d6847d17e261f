"""One self-contained HTML page for one or more results: opens offline, prints, needs no script."""
