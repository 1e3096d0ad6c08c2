"""Floor 2: analyses, each made by `make_analysis` and called as (key, ensemble, observation) -> ensemble."""
