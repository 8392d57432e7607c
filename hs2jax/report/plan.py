"""The page of `hs2jax plan`: does it fit, how long does it take, and what limits it?"""

from hs2jax.report.page import Section, Verdict
from hs2jax.report.run import Run
from hs2jax.report.views import view


def sections(run: Run) -> list[Section]:
    """Say in words what was found, and show where memory and time go."""
    said = [Verdict(**each) for each in run.result["said"]]
    return [Section("Plan", said, view("plan", run.rows)[1])]
