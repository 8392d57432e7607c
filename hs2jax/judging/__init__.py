"""A frozen language model as a judge that reads every layer (LAGER, arXiv 2508.03550)."""
