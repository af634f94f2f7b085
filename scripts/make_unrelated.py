"""Train one more small chat model, unrelated to tiny-v1.

    pip install -r scripts/requirements.txt
    python scripts/make_unrelated.py OUT_FOLDER    # 6 minutes on one core

It learns the same text as the demo models (scripts/demo_text.py) and uses the
same chat template, so it is a healthy model for the same questions. The rest
is its own: the tokenizer (700 tokens, in which words keep the space after them
and not the one before), the size and the initialisation. It is for tests that
compare a stable model and a canary with different tokenizers, where only
figures per byte of text can be compared. It is not one of the demo models, so
it is made when it is needed and not kept in models/.
"""

import argparse
from pathlib import Path

import torch

import model_files
import train_models

SEED = 40
STEPS = 2400
VOCAB_SIZE = 700
SHAPE = {**model_files.SHAPE, "vocab_size": VOCAB_SIZE, "hidden_size": 96,
         "num_attention_heads": 3, "num_key_value_heads": 1}
SPLIT = r"\p{L}+ ?|\p{N}|[^\s\p{L}\p{N}]+ ?|\s+"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = model_files.train_tokenizer(
        train_models.tokenizer_texts(), VOCAB_SIZE, SPLIT)
    encoder = train_models.Encoder(tokenizer)
    model = train_models.train(encoder, args.steps, lambda *_: None,
                               seed=SEED, shape=SHAPE)
    model_files.write_model(args.out, model, tokenizer, SHAPE)


if __name__ == "__main__":
    main()
