"""What modelswarm itself costs, and how it compares with other load generators."""
