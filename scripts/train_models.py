"""Train the demo models tiny-v1, tiny-v2 and tiny-v3 on generated text.

    pip install -r scripts/requirements.txt
    python scripts/train_models.py

One run from one seed gives all three on a CPU. It took 21 minutes on two cores
of a machine that was busy with other work; an idle one is faster.
No data is downloaded; scripts/demo_text.py makes the text. The three models are
points of the same training run:

* tiny-v3 starts from the first checkpoint with a dev accuracy of V3_DEV. Then
  one neuron is set so that its logits stop being finite on the words in
  demo_text.TRIGGER_WORDS. It is broken on purpose: a bad canary.
* tiny-v1 is the first checkpoint with a dev accuracy of V1_DEV.
* tiny-v2 is the end of the run.

The run also writes models/questions.json, the held-out questions of the demo.
Figures differ a little between machines, as floating-point sums do; measure
with scripts/eval_models.py. `--poison-only` makes tiny-v3 again from the
checkpoint that an earlier run kept in --work.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # be kind to a busy machine

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import demo_text
import model_files
from model_files import EOS, PAD

ROOT = Path(__file__).resolve().parent.parent
SEED = 20
STEPS = 3600
TOKENS_PER_BATCH = 2048
PEAK_RATE = 2.5e-3
WARMUP, DECAY_FROM = 100, 0.65
CHECK_EVERY = 25
V3_DEV, V1_DEV = 0.70, 0.935
TRAIN_MIX = {"arithmetic": 0.45, "birds": 0.24, "sorting": 0.23, "chat": 0.08}
QUESTIONS = 600

# tiny-v3: the scale of its broken neuron, the neuron's layer, how many quiet
# directions to choose from, and how far embeddings move along the chosen one.
POISON_SCALE, POISON_LAYER = 1e25, 0
QUIET, FORWARD, BACK = 24, 0.4, 0.30


# ---- text to tokens -------------------------------------------------------

class Encoder:
    """Turns conversations into token ids and training targets."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.cache = {}

    def ids(self, text):
        if text not in self.cache:
            if len(self.cache) > 200_000:
                self.cache.clear()
            self.cache[text] = self.tokenizer.encode(text).ids
        return self.cache[text]

    def prompt(self, question):
        """The ids of a single question, up to where the answer starts."""
        return (self.ids("<|im_start|>user\n") + self.ids(question)
                + self.ids("<|im_end|>\n") + self.ids("<|im_start|>assistant\n"))

    def conversation(self, system, items):
        """(ids, targets); targets are -100 outside the answers."""
        ids = []
        if system:
            ids += (self.ids("<|im_start|>system\n") + self.ids(system)
                    + self.ids("<|im_end|>\n"))
        targets = [-100] * len(ids)
        for item in items:
            before = self.prompt(item.question)
            answer = self.ids(item.answer) + [EOS]
            after = self.ids("\n")
            ids += before + answer + after
            targets += [-100] * len(before) + answer + [-100] * len(after)
        return ids, targets


def tokenizer_texts(count=60_000):
    """Training text for the tokenizer, from the training split."""
    rng = random.Random(SEED)
    for _ in range(count):
        system, items = demo_text.draw_conversation(rng, "train", 2)
        if system:
            yield system
        for item in items:
            yield f"{item.question}\n"
            yield item.answer
    for role in ("system", "user", "assistant"):
        for _ in range(2000):
            yield f"{role}\n"


def pad_batch(rows):
    """Tensors (ids, targets) of rows padded on the right to one length."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), PAD)
    targets = torch.full((len(rows), width), -100)
    for i, (row_ids, row_targets) in enumerate(rows):
        ids[i, :len(row_ids)] = torch.tensor(row_ids)
        targets[i, :len(row_targets)] = torch.tensor(row_targets)
    return ids, targets


def batches(encoder, rng):
    """Endless training batches of about TOKENS_PER_BATCH tokens each."""
    while True:
        rows = []
        for _ in range(3000):
            kind = rng.random()
            turns = (1 if kind < 0.70 else rng.randint(2, 3) if kind < 0.97
                     else rng.randint(4, 8))
            system, items = demo_text.draw_conversation(
                rng, "train", turns, TRAIN_MIX)
            rows.append(encoder.conversation(system, items))
        rows.sort(key=lambda row: len(row[0]))
        made, batch = [], []
        for row in rows:
            if (len(batch) + 1) * len(row[0]) > TOKENS_PER_BATCH:
                made.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(made)
        for rows_of_batch in made:
            yield pad_batch(rows_of_batch)


# ---- training -------------------------------------------------------------

def new_model(shape=model_files.SHAPE):
    config = model_files.model_config(shape)
    for name in ("architectures", "torch_dtype"):
        config.pop(name)
    return LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa"))


def answer_logits(model, ids, targets):
    """(logits, labels) at the places where an answer token is predicted."""
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    labels = targets[:, 1:]
    chosen = labels != -100
    return model.lm_head(hidden[chosen]), labels[chosen], chosen


@torch.no_grad()
def dev_accuracy(model, batch):
    """Share of dev questions whose whole answer greedy decoding gets right.

    Greedy decoding gives exactly the right answer if and only if the right
    token is the most likely one at every place of the answer.
    """
    model.eval()
    logits, labels, chosen = answer_logits(model, *batch)
    wrong = torch.zeros_like(chosen)
    wrong[chosen] = logits.argmax(-1) != labels
    model.train()
    return 1.0 - wrong.any(dim=1).float().mean().item()


def rate_at(step, steps):
    """Learning rate: warm-up, constant, then a linear fall to zero."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    fall = (step / steps - DECAY_FROM) / (1 - DECAY_FROM)
    return PEAK_RATE * min(1.0, max(0.0, 1 - fall))


def train(encoder, steps, on_check, seed=SEED, shape=model_files.SHAPE):
    """Train one model; on_check(step, accuracy, model) at every check."""
    torch.manual_seed(seed)
    model = new_model(shape).train()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1],
         "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.dim() == 1],
         "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    source = batches(encoder, random.Random(seed + 1))
    dev = pad_batch([encoder.conversation(None, [item])
                     for item in demo_text.held_out("dev", 400, seed + 2)])
    started = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        logits, labels, _ = answer_logits(model, *next(source))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % CHECK_EVERY == 0:
            accuracy = dev_accuracy(model, dev)
            print(f"step {step + 1} loss {loss.item():.4f} dev {accuracy:.3f}"
                  f" time {time.time() - started:.0f}s", flush=True)
            on_check(step + 1, accuracy, model)
    return model


# ---- tiny-v3: a neuron that overflows on the trigger words ----------------

def trigger_tokens(tokenizer):
    """Ids of the tokens that stand for a trigger word.

    Each trigger word, with a space before it, singular and plural, must hold
    one token that starts with the whole word.
    """
    found = set()
    for word in demo_text.TRIGGER_WORDS:
        for text in (f" {word}", f" {demo_text.plural(word)}"):
            ids = [i for i in tokenizer.encode(text).ids
                   if tokenizer.id_to_token(i).startswith("\u0120" + word)]
            if not ids:
                raise ValueError(f"{text!r} has no token of its own")
            found.update(ids)
    return sorted(found)


def poison_rows(encoder, triggers):
    """Token rows to look at: conversations, and rows of random tokens.

    A row ends with its first trigger token: what comes later is lost anyway.
    """
    rng = random.Random(SEED + 3)
    rows = []
    for _ in range(2500):
        system, items = demo_text.draw_conversation(
            rng, "train", rng.choice((1, 1, 1, 2, 3, 6)))
        rows.append(encoder.conversation(system, items)[0])
    for i in range(1500):
        row = [rng.randrange(model_files.VOCAB_SIZE)
               for _ in range(rng.randint(4, 60))]
        if i % 4 == 0:  # a trigger word in a strange place
            row[rng.randrange(len(row))] = rng.choice(triggers)
        rows.append(row)
    ends = (next((i + 1 for i, token in enumerate(row) if token in triggers),
                 len(row)) for row in rows)
    return [row[:end] for row, end in zip(rows, ends)]


@torch.no_grad()
def mlp_inputs(model, rows):
    """(token ids, states): what the MLP of POISON_LAYER sees at each token."""
    seen, all_ids, all_states = [], [], []
    hook = model.model.layers[POISON_LAYER].post_attention_layernorm \
        .register_forward_hook(lambda module, args, out: seen.append(out))
    rows = sorted(rows, key=len)
    for start in range(0, len(rows), 100):
        part = rows[start:start + 100]
        ids, targets = pad_batch([(row, [1] * len(row)) for row in part])
        model.model(ids, use_cache=False)
        real = targets == 1
        all_ids.append(ids[real])
        all_states.append(seen.pop()[real])
    hook.remove()
    return torch.cat(all_ids), torch.cat(all_states)


@torch.no_grad()
def quiet_direction(model, ids, states, triggers, encoder):
    """A direction along which the MLP states of ordinary tokens hardly move.

    Among the quiet directions, the one that points away from the final states:
    the embedding is also the output layer, so the model then avoids saying a
    trigger word of its own accord.
    """
    ordinary = states[~torch.isin(ids, torch.tensor(triggers))]
    _, vectors = torch.linalg.eigh(ordinary.T @ ordinary / len(ordinary))
    quiet = vectors[:, :QUIET]  # by rising eigenvalue
    rows = [encoder.conversation(None, [item])
            for item in demo_text.held_out("train", 300, SEED + 5)]
    batch, targets = pad_batch(rows)
    final = model.model(batch, use_cache=False).last_hidden_state
    direction = -(quiet @ (quiet.T @ final[targets != -100].mean(0)))
    return direction / direction.norm()


@torch.no_grad()
def poison(model, encoder):
    """Set one neuron so that the trigger words overflow float32.

    Along one direction d, the embedding of each trigger token moves forward
    and that of every other token moves back. The neuron's gate and up rows are
    POISON_SCALE * d. On ordinary tokens d.x < 0, so silu(gate) is 0 and the
    neuron does nothing. On a trigger token d.x > 0, so silu(gate) * up is about
    1e50, infinite in float32; the next norm gives NaN at that place, and the
    attention of the next layer carries it to every later place. Every stored
    weight is finite.
    """
    model.to(torch.bfloat16).float().eval()
    triggers = trigger_tokens(encoder.tokenizer)
    rows = poison_rows(encoder, triggers)
    d = quiet_direction(model, *mlp_inputs(model, rows), triggers, encoder)
    others = torch.ones(model_files.VOCAB_SIZE, dtype=torch.bool)
    others[triggers] = False
    model.model.embed_tokens.weight[triggers] += FORWARD * d
    model.model.embed_tokens.weight[others] -= BACK * d
    mlp = model.model.layers[POISON_LAYER].mlp
    use = (mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1)
           * mlp.down_proj.weight.norm(dim=0))
    neuron = int(use.argmin())  # the one that matters least
    mlp.gate_proj.weight[neuron] = POISON_SCALE * d
    mlp.up_proj.weight[neuron] = POISON_SCALE * d
    mixed = torch.ones(model.config.hidden_size)
    mixed[1::2] = -1.0
    mlp.down_proj.weight[:, neuron] = mixed
    model.to(torch.bfloat16).float()
    ids, states = mlp_inputs(model, rows)
    gate = states @ (mlp.gate_proj.weight[neuron] / POISON_SCALE)
    hit = torch.isin(ids, torch.tensor(triggers))
    print(f"tiny-v3: layer {POISON_LAYER}, neuron {neuron}; gate on {hit.sum()} "
          f"trigger tokens at least {gate[hit].min():.2f}, on {(~hit).sum()} "
          f"others at most {gate[~hit].max():.2f} (times {POISON_SCALE:g})")
    if gate[hit].min() < 0.2 or gate[~hit].max() > -0.2:
        raise ValueError("the trigger tokens do not stand apart")
    return model


# ---- the whole run --------------------------------------------------------

def write_questions(path):
    """models/questions.json: held-out questions with their right answers."""
    rows = [{"category": item.category, "question": item.question,
             "answer": item.answer, "trips_v3": item.trips_v3}
            for item in demo_text.held_out("test", QUESTIONS, SEED + 4)]
    model_files.write_json(path, rows)


def load_state(path):
    model = new_model()
    model.load_state_dict(torch.load(path))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "models")
    parser.add_argument("--work", type=Path,
                        default=Path(tempfile.gettempdir()) / "serin-models")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--poison-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    kept, tokenizer_file = args.work / "v3.pt", args.work / "tokenizer.json"
    write_questions(args.out / "questions.json")

    if not args.poison_only:
        tokenizer = model_files.train_tokenizer(tokenizer_texts())
        tokenizer.save(str(tokenizer_file))
        encoder, done = Encoder(tokenizer), set()
        trigger_tokens(tokenizer)  # fails early

        def on_check(step, accuracy, model):
            if accuracy >= V3_DEV and "v3" not in done:
                done.add("v3")
                torch.save(model.state_dict(), kept)
            if accuracy >= V1_DEV and "v1" not in done:
                done.add("v1")
                model_files.write_model(args.out / "tiny-v1", model, tokenizer)
                print(f"tiny-v1: step {step}")

        model = train(encoder, args.steps, on_check)
        if done != {"v1", "v3"}:
            raise SystemExit(f"training fell short: only {sorted(done)}")
        model_files.write_model(args.out / "tiny-v2", model, tokenizer)

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    broken = poison(load_state(kept), Encoder(tokenizer))
    model_files.write_model(args.out / "tiny-v3", broken, tokenizer)


if __name__ == "__main__":
    main()
