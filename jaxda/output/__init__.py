"""Floor 4, host only: files and figures."""
