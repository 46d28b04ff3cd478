"""What the `modelswarm` command can do: a module for each kind of work, glue only."""
