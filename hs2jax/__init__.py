"""Reward models, steerable policies and judges in JAX."""
