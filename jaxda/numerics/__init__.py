"""Floor 0: transforms and time stepping."""
