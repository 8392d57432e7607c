"""Hugging Face's files: checkpoints, configs, tokenizers, and the hub."""

import os

# transformers would warn that PyTorch, which nothing here needs, was not found.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
