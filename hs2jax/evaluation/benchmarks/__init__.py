"""Benchmarks with published scoring rules, from scored items to rows."""
