"""Clients of `hs2jax serve`: a reward function for TRL, and OpenRLHF's remote reward.

    python -c "import clients; print(clients.reward(['2 + 2?'], ['4']))"

curl, for the same:

    curl localhost:8000/score -H 'Content-Type: application/json' -d '{"conversations": [[
        {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]]}'
"""

import os

import requests
from requests.adapters import HTTPAdapter, Retry

URL = os.environ.get("HS2JAX_URL", "http://localhost:8000")
SESSION = requests.Session()
SESSION.headers["Authorization"] = f"Bearer {os.environ.get('HS2JAX_API_KEY', '')}"
# A full queue, or a server that starts again, is asked again when it says so.
AGAIN = Retry(8, backoff_factor=0.5, status_forcelist=(429, 503), allowed_methods=None)
for scheme in ("http://", "https://"):
    SESSION.mount(scheme, HTTPAdapter(pool_maxsize=200, max_retries=AGAIN))


def reward(prompts, completions, **others) -> list[float | None]:
    """Reward completions: GRPOTrainer(reward_funcs=reward, ...). None for what has no score."""

    def messages(said, role):
        return said if isinstance(said, list) else [{"role": role, "content": said}]

    pairs = zip(prompts, completions, strict=True)
    conversations = [messages(a, "user") + messages(b, "assistant") for a, b in pairs]
    answer = SESSION.post(f"{URL}/score", json={"conversations": conversations}, timeout=300)
    answer.raise_for_status()
    return [score.get("reward") for score in answer.json()["scores"]]


def remote_reward(queries, prompts, labels) -> list[float | None]:
    """Ask as OpenRLHF does with --reward.remote_url URL/get_reward; queries: rendered texts."""
    body = {"query": queries, "prompts": prompts, "labels": labels}
    answer = SESSION.post(f"{URL}/get_reward", json=body, timeout=180)
    answer.raise_for_status()
    return answer.json()["rewards"]
