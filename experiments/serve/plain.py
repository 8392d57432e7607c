"""A plain server to compare with: FastAPI around `transformers`, a request at a time."""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="right")
model.config.pad_token_id = tokenizer.pad_token_id
app = FastAPI()


class Body(BaseModel):
    conversations: list[list[dict]]


@app.get("/health")
async def health():
    return {}


@app.post("/score")
async def score(body: Body):
    texts = [tokenizer.apply_chat_template(x, tokenize=False) for x in body.conversations]
    texts = [text.rstrip() for text in texts]  # The score is read at the end of the turn.
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        logits = model(**batch).logits[:, 0].tolist()
    return {"scores": [{"reward": each} for each in logits]}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
