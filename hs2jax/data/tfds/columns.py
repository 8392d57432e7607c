"""Columns that several data sets have."""

from hs2jax.data.tfds.building import Column

ABOUT = {
    "helpfulness": "Overall helpfulness of the response to the prompt",
    "correctness": "All pertinent facts are there, without errors",
    "coherence": "Consistency and clarity of expression",
    "complexity": "Intellectual depth needed to write the response, from basic to expert",
    "verbosity": "Amount of detail, relative to what the prompt asks for",
}
PROMPT = Column(
    "text",
    "The turns before the response; the first is the user's, and later ones follow a line "
    "'<extra_id_1>Assistant' or '<extra_id_1>User'",
)
RESPONSE = Column("text", "The assistant's response that is rated")


def ratings(kind: str, about: str) -> dict[str, Column]:
    """Prompt, response and the five ratings, each an integer, or a list of them."""
    five = {
        name: Column(kind, f"{what}; {about}", "0 (worst or least) to 4 (best or most)")
        for name, what in ABOUT.items()
    }
    return {"prompt": PROMPT, "response": RESPONSE, **five}
