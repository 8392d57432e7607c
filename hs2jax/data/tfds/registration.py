"""Make `tfds.builder("helpsteer2")` work once hs2jax is imported, without importing TFDS.

A provider of builders is put on TFDS's list as soon as the module with that list is there.
"""

import importlib.abc
import importlib.util
import sys

from hs2jax.data.tfds import catalogue

PROVIDERS = "tensorflow_datasets.core.registered"  # The module that holds the list.


class Provider:
    """Provider of the catalogue's builders for TFDS."""

    def has_dataset(self, name: str) -> bool:
        return name in catalogue.REPOSITORIES

    def get_builder_cls(self, name: str) -> type:
        from hs2jax.data.tfds import building  # Imports TFDS.

        return building.BUILDERS[name]


class Finder(importlib.abc.MetaPathFinder):
    """Import hook that adds the provider once, at the end of the import of PROVIDERS."""

    def find_spec(self, name, path=None, target=None):
        if name != PROVIDERS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_provide(module):
            execute(module)
            module.add_dataset_builder_provider(Provider(), index=0)

        spec.loader.exec_module = execute_and_provide
        return spec


def register() -> None:
    """Make the builders known. Called once, when hs2jax is imported."""
    if PROVIDERS in sys.modules:
        sys.modules[PROVIDERS].add_dataset_builder_provider(Provider(), index=0)
    else:
        sys.meta_path.insert(0, Finder())
