"""Each module is a benchmark: `python -m benchmarks.NAME [--json]`. Nothing imports this package."""
