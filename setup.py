"""Installs hs2jax. Settings of the development tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

WANDB = ["wandb>=0.18"]
TEST = ["hypothesis>=6.100", "import-linter>=2.0", "pytest>=8.0", "pytest-xdist>=3.5", "ruff>=0.9"]
SERVE = ["fastapi>=0.115", "prometheus_client>=0.20", "uvicorn>=0.30"]
TEST += [*SERVE, "httpx>=0.27", "schemathesis>=4.0"]

setup(
    name="hs2jax",
    version="0.1.0",
    description="Reward models, steerable policies and LLM judges in JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    # Where notebooks are opened and cloned from; of another one:
    # sed -i s,hs2jax/hs2jax,OWNER/NAME,g setup.py colab/*.ipynb
    url="https://github.com/hs2jax/hs2jax",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["hs2jax", "hs2jax.*"]), "hs2jax.presets"],
    package_dir={"hs2jax.presets": "configs"},  # So that they can be named from any folder.
    package_data={
        "hs2jax.data": ["mini/*"],
        "hs2jax.evaluation.benchmarks": ["*.json"],
        "hs2jax.judging": ["criteria/*.json"],
        "hs2jax.models.hf": ["card.md.j2", "published.json"],
        "hs2jax.report": ["*.j2", "*.mplstyle", "*.toml"],
        "hs2jax.data.tfds": [
            "*/README.md",
            "*/CITATIONS.bib",
            "*/TAGS.txt",
            "*/dummy_data/*",
            "*/dummy_data/*/*",
        ],
    },
    install_requires=[
        "absl-py>=1.4",
        "array_record>=0.8",
        "etils[epath]>=1.9",  # One way to open local and gs:// paths.
        "flax>=0.11",
        "fsspec>=2024.6",
        "gguf>=0.17",
        "grain>=0.2.12",
        "huggingface_hub>=1.0",
        "importlib_resources>=6.0",  # tensorflow-datasets 4.9.10 needs it and does not say so.
        "jax>=0.7.2,<0.13",
        "jinja2>=3.1",  # Chat templates and reports; transformers needs it and does not say so.
        "matplotlib>=3.10",  # Its SVG text has sizes apart from fonts.
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.20",
        "pyarrow>=16",  # RewardBench is published as Parquet; tensorflow-datasets needs it too.
        "safetensors>=0.5",
        "scipy>=1.13",
        "tensorboardX>=2.6",  # Writes TensorBoard files without TensorFlow.
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
        "transformers>=5.0,<6",
    ],
    extras_require={
        "gs": ["gcsfs>=2024.6"],
        "cuda": ["jax[cuda12]>=0.7.2,<0.13"],
        "notebooks": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10", "pandas>=2.2"],
        "parity": ["torch>=2.6", "accelerate"],
        "serve": SERVE,
        "tensorboard": ["tensorboard>=2.16"],
        "test": [*TEST, *WANDB],
        "tpu": ["jax[tpu]>=0.7.2,<0.13"],
        "wandb": WANDB,
    },
    entry_points={"console_scripts": ["hs2jax = hs2jax.cli:command"]},
)
