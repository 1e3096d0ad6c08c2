"""The operational form: observation files as they arrive, a cycle for each, on time and in order."""
