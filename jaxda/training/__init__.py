"""Training of surrogates: samples, losses, the step, online updates."""
