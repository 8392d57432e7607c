"""A row of each format as it is published, and the group that it is. Written for the tests."""

import gzip
import json

from test_policy_chat import talk

from hs2jax.data import justifications
from hs2jax.data.formats import ATTRIBUTES, FORMATS, LOGS, SUMMEVAL
from hs2jax.data.groups import Group


def user(content):
    return ({"role": "user", "content": content},)


def pair(prompt, first, second, strength, **about):
    return Group(user(prompt), (first, second), strength=strength, about=about)


def credited(prompt, right, wrong, **about):
    credits = ({"correct": 1.0},) * len(right) + ({"correct": 0.0},) * len(wrong)
    return Group(user(prompt), (*right, *wrong), credits, about=about)


# Of each format: the file's name, a row, and the group that it is.
FILES = {
    "helpsteer2_justification": "rows.jsonl",
    "helpsteer2_disagreements": "rows.jsonl",
    "helpsteer3": "rows.jsonl",
    "reward_bench": "data/filtered.jsonl",
    "reward_bench_2": "data/test-00000-of-00001.jsonl",
    "rm_bench": "data/math_filtered.json",
    "judge_bench": "data/dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl",
    "llmbar": "Dataset/LLMBar/Adversarial/GPTInst/dataset.json",
    "pandalm": "data/testset-v1.json",
    "arena": "rows.jsonl",
    "instructions": "rows.json",
    "summeval": "rows.jsonl",
    "biggen": "rows.jsonl",
    "conversations": "rows.jsonl",
    "sampled": "rows.jsonl",
}
PUBLISHED = """
{"split": "val", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -1,
 "preference_statement": "@Response 1 is slightly better than @Response 2.",
 "three_most_similar_preferences": [],
 "all_preferences_unprocessed": []}
{"prompt": "p", "response": "r", "helpfulness": [1, 2], "correctness": [0, 4], "coherence": [2],
 "complexity": [1, 1, 4], "verbosity": [3]}
{"domain": "stem", "language": "english", "context": [{"role": "user", "content": "Hi"}],
 "response1": "a", "response2": "b", "overall_preference": 2,
 "individual_preference": [{"score": 2, "reasoning": "so"}]}
{"prompt": "Name a gas.", "chosen": "Helium.", "chosen_model": "large", "rejected": "Iron.",
 "rejected_model": "small", "subset": "hep-go", "id": 30}
{"id": "tied:12", "prompt": "Name a colour.", "chosen": ["Red.", "Blue."],
 "rejected": ["Two.", "Cat.", "Loud."], "num_correct": 2, "num_incorrect": 3,
 "total_completions": 5, "models": ["human", "human", "human", "human", "human"],
 "subset": "Ties", "additional_metadata": {"category": null, "index": 7.0}}
{"id": 8, "prompt": "What is 2 + 2?", "subset": "gsm8k", "error": "a wrong sum",
 "chosen": ["4", "It is 4.", "**4**"], "rejected": ["5", "It is 5.", "**5**"]}
{"pair_id": "81ec", "original_id": "10646", "source": "mmlu-pro-law", "question": "A tort?",
 "response_model": "gpt-4o", "response_A": "Theft.", "response_B": "Negligence.", "label": "B>A"}
{"input": "Say hello.", "output_1": "Hello.", "output_2": "Goodbye.", "label": 1}
{"idx": 3, "motivation_app": "Maps", "cmp_key": "bloom_llama", "instruction": "Shorten the text.",
 "input": "It is very cold.", "response1": "Cold.", "response2": "Hot.", "annotator1": 1,
 "annotator2": 1, "annotator3": 2}
{"question_id": "58d2", "model_a": "large", "model_b": "small", "winner": "tie (bothbad)",
 "conversation_a": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}],
 "conversation_b": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}],
 "turn": 1, "language": "English"}
{"instruction": "Name a gas.", "input": "A light one.", "output": "Helium."}
{"article_id": "A7", "summary_id": "S0", "article": "A long tale.", "summary": "A tale.",
 "coherence": 1.25, "consistency": 5, "fluency": 3.0, "relevance": 1}
{"system_prompt": "You know gases.", "input": "Name a gas.", "response": "Helium.",
 "score_rubric": {"criteria": "Is it a gas?", "score1_description": "1 of 5",
                  "score2_description": "2 of 5", "score3_description": "3 of 5",
                  "score4_description": "4 of 5", "score5_description": "5 of 5"},
 "human_score": [4, 5, 2]}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
              {"role": "assistant", "content": "Hello."}]}
{"source": "prompts.jsonl:3", "prompt": [{"role": "user", "content": "Hi"}],
 "condition": {"helpfulness": 4, "verbosity": 0}, "responses": ["Yes.", "No."],
 "tokens": [[5, 6, 2], [7, 2]], "finished": [true, true], "log_proposal": [-2.5, -1.25],
 "predicted": [{"helpfulness": 3.1}, {}], "log_attribute": [-0.5, -27.0],
 "log_prior": [-3.0, 0.0]}
"""
PUBLISHED = "[" + PUBLISHED.strip().replace("}\n{", "},{") + "]"
ROWS = dict(zip(FILES, json.loads(PUBLISHED), strict=True))
GROUPS = {
    "helpsteer2_justification": Group(
        user(justifications.question(user("p"), "a", "b")),
        ("@Response 1 is slightly better than @Response 2.",),
    ),
    "helpsteer2_disagreements": Group(
        user("p"), ("r",), (dict(zip(ATTRIBUTES, (1.5, 2.0, 2.0, 2.0, 3.0), strict=True)),)
    ),
    "helpsteer3": pair("Hi", "a", "b", 2.0),
    "reward_bench": pair("Name a gas.", "Helium.", "Iron.", -1.0, subset="hep-go", id=30),
    "reward_bench_2": credited(
        "Name a colour.", ["Red.", "Blue."], ["Two.", "Cat.", "Loud."], subset="Ties", id="tied:12"
    ),
    "rm_bench": credited(
        *("What is 2 + 2?", ["4", "It is 4.", "**4**"], ["5", "It is 5.", "**5**"]),
        domain="math",
        id=8,
    ),
    "judge_bench": pair(
        "A tort?", "Theft.", "Negligence.", 1.0, subset="knowledge", id="81ec", writer="gpt-4o"
    ),
    "llmbar": pair("Say hello.", "Hello.", "Goodbye.", -1.0, subset="adversarial-GPTInst"),
    "pandalm": pair(
        "Shorten the text.\n\nIt is very cold.", "Cold.", "Hot.", -1.0, subset="bloom_llama", id=3
    ),
    "arena": pair("Hi", "Yes.", "No.", 0.0),
    "instructions": Group(user("Name a gas.\n\nA light one."), ("Helium.",)),
    "summeval": Group(
        user("Summarize this article in a few sentences.\n\nA long tale."),
        ("A tale.",),
        (dict(zip(SUMMEVAL, (1.25, 5.0, 3.0, 1.0), strict=True)),),
        about={"id": "A7"},
    ),
    "biggen": Group(
        tuple(talk("Name a gas.", system="You know gases.")),
        ("Helium.",),
        ({"rubric": 11 / 3},),
        about={"rubric": json.dumps(ROWS["biggen"]["score_rubric"])},
    ),
    "conversations": Group(tuple(talk("Hi", system="Be brief.")), ("Hello.",)),
    "sampled": Group(
        user("Hi"),
        ("Yes.", "No."),
        tuple(dict(zip(LOGS, x, strict=True)) for x in ((-0.5, -3, -2.5), (-27, 0, -1.25))),
        condition={"helpfulness": 4, "verbosity": 0},
        tokens=((5, 6, 2), (7, 2)),
    ),
}
# Fields that a format does not read, or does not need.
UNREAD = {
    "helpsteer2_justification": {
        *("split", "three_most_similar_preferences", "all_preferences_unprocessed")
    },
    "helpsteer3": {"domain", "language", "individual_preference"},
    "reward_bench": {"chosen_model", "rejected_model", "id"},
    "reward_bench_2": {
        *("num_correct", "num_incorrect", "total_completions", "models", "additional_metadata")
    },
    "rm_bench": {"id", "subset", "error"},
    "judge_bench": {"pair_id", "original_id", "response_model"},
    "pandalm": {"idx", "motivation_app", "input"},
    "arena": {"question_id", "model_a", "model_b", "turn", "language"},
    "instructions": {"input"},
    "summeval": {"article_id", "summary_id"},
    "biggen": {"system_prompt"},
    "sampled": {"source", "condition", "tokens", "finished", "predicted", *LOGS},
}

# Of each format: fields, and values that are wrong there.
MALFORMED = {
    "helpsteer2_justification": {
        "preference_statement": [3, "Both.", "@Response 2 is better than @Response 1."],
        "preference_elaboration": [3, ["x"]],
        "preference_strength": [0, -100, 4, None],
        "response_2": [" "],
    },
    "helpsteer2_disagreements": {
        "coherence": [[], 3, [1, 5], [1, None], [1.5], [True]],
        "response": [""],
        "prompt": ["a\n<extra_id_1>User\nb"],
    },
    "helpsteer3": {
        "context": [[], talk("Hi", "Hello."), [{"role": "user"}], [{"role": "tool"}]],
        "response1": [" "],
        "response2": [None],
        "overall_preference": [4, 0.5, None],
    },
    "reward_bench": {
        "prompt": [["p"], [{"role": "tool", "content": "x"}]],
        "rejected": [None],
        "subset": [" ", 3],
        "id": [2.5, "", True, 10**400],
    },
    "reward_bench_2": {
        "chosen": ["Red.", []],
        "rejected": [["Two.", " ", "Loud."]],
        "num_correct": [1],
        "num_incorrect": [2],
        "total_completions": [4, "5"],
        "id": ["12", "tied:x", 12],
    },
    "rm_bench": {"chosen": [["4", "4"]], "rejected": [["5", "5", None]]},
    "judge_bench": {
        "source": ["gsm8k"],
        "label": ["A=B", ["A>B"]],
        "response_model": [4],
        "response_B": [""],
    },
    "llmbar": {"label": [0, "1", True], "output_2": [None]},
    # Found in the published file: a response that is the truth value.
    "pandalm": {"annotator2": [3], "annotator3": [None], "response1": [True], "input": [3]},
    "arena": {
        "winner": ["a", 1, True, "Model_A", ["tie"]],
        "turn": [0, 2, "1"],
        "conversation_a": ["Hi", talk("Hi")],
        "conversation_b": [talk("Hello", "No.")],
    },
    "biggen": {
        "human_score": [0, [4, "5"], []],
        "score_rubric": ["strict", {**ROWS["biggen"]["score_rubric"], "criteria": " "}],
    },
    "instructions": {
        "instruction": ["", None],
        "input": [3, ["x"], "\ud800"],
        "output": [" ", ["x"]],
        "response": ["Neon."],
    },
    "summeval": {
        "article": [""],
        "article_id": [[7]],
        "summary": [None],
        "coherence": [0.9],
        "consistency": [5.1],
        "relevance": [float("nan"), True],
    },
}


def of(name, **fields):
    """The group of a row, with some fields changed."""
    return FORMATS[name].group({**ROWS[name], **fields, **FORMATS[name].of_path(FILES[name])})


def write(folder, rows, name="rows.jsonl"):
    """A file of rows in the form that its name says."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".json"):
        text = json.dumps(rows, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path
