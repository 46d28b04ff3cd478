"""The one shared export that every server serves, and the code that all code-based servers share."""
