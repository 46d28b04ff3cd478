"""The `modelswarm` command: set up, run a plan, report, clean up. Glue over the other folders."""
