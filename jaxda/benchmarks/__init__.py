"""What scripts/bench.py times."""
