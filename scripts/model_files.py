"""Files of the demo models: the tokenizer, the configuration and the weights.

Used by train_models.py and make_unrelated.py (write). Each model folder
has the standard Hugging Face layout and can be opened with
`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, BOS, EOS = 0, 1, 2
VOCAB_SIZE = 1024

SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

# Words keep their leading space; every digit is a token of its own.
SPLIT = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def train_tokenizer(texts, vocab_size=VOCAB_SIZE, split=SPLIT):
    """A byte-level BPE tokenizer of `vocab_size` tokens for these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False,
        special_tokens=[AddedToken(s, special=True, normalized=False)
                        for s in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"vocabulary is {tokenizer.get_vocab_size()}")
    return tokenizer


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def model_config(shape=SHAPE):
    """config.json, in the form that every Llama loader reads."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "initializer_range": 0.02,
        "rope_scaling": None, "pretraining_tp": 1, "use_cache": True,
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "torch_dtype": "bfloat16"}


def write_model(folder, model, tokenizer, shape=SHAPE):
    """Write one model folder; the weights are stored as bfloat16."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(torch.bfloat16).contiguous().clone()
             for name, value in model.state_dict().items()
             if name != "lm_head.weight"}  # tied to the embedding
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has a weight that is not finite")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", model_config(shape))
    write_json(folder / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "do_sample": True, "temperature": 0.2, "top_p": 0.95,
        "max_new_tokens": 64})
    special = {"bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS],
               "pad_token": SPECIALS[PAD]}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {
        **special, "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False, "add_eos_token": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 512,
        "added_tokens_decoder": {
            str(i): {"content": text, "lstrip": False, "normalized": False,
                     "rstrip": False, "single_word": False, "special": True}
            for i, text in enumerate(SPECIALS)},
        "chat_template": CHAT_TEMPLATE})
