"""Floor 1: forecast models, each a config, `make_params`, `step`: state -> state."""
