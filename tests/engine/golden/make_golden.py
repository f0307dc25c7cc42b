"""Makes the golden files of the model tests with PyTorch and transformers. Run once; the results are committed.

    python3 tests/engine/golden/make_golden.py      (needs torch, transformers, safetensors, numpy)

Per case: CASE.config.json (as transformers writes it) and CASE.safetensors with
  tokens, targets                (B,T) i32; the last target is -1, ignored
  weights.NAME                   before the first step
  logits (B,T,V), token_losses (B,T; 0 where ignored), loss (1)
  gradients.NAME                 of the mean loss
  stepped.NAME                   weights after two AdamW steps on the same batch
  second_loss (1)                the loss at the second step
and sharded/, a model in bf16 as transformers saves it in several files.
"""

import json
import pathlib

import numpy
import safetensors.torch
import torch
import torch.nn.functional as functional
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1
BATCH, TOKENS = 2, 9
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             head_dim=8, vocab_size=61, rms_norm_eps=1e-5, rope_theta=100.0, max_position_embeddings=64,
             initializer_range=0.3, pad_token_id=None, bos_token_id=1, eos_token_id=2)
CASES = {
    "untied": dict(SMALL, tie_word_embeddings=False),
    "tied": dict(SMALL, tie_word_embeddings=True, head_dim=4),
    "llama3": dict(SMALL, tie_word_embeddings=False, num_hidden_layers=1, rope_scaling=LLAMA3),
}


def make_case(name, fields, folder):
    torch.manual_seed(len(name))
    config = LlamaConfig(**fields)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float()
    for key, parameter in model.named_parameters():
        if "norm" in key:  # other than 1, so that a forgotten norm weight shows
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    tokens = torch.randint(0, config.vocab_size, (BATCH, TOKENS))
    targets = torch.randint(0, config.vocab_size, (BATCH, TOKENS))
    targets[-1, -1] = -1
    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=WEIGHT_DECAY), dict(params=norms, weight_decay=0.0)],
                                  lr=LEARNING_RATE, betas=BETAS, eps=EPS)
    result = {"tokens": tokens.int(), "targets": targets.int()}
    result |= {f"weights.{k}": p.detach().clone() for k, p in model.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        logits = model(input_ids=tokens, use_cache=False).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        loss = losses.sum() / (targets >= 0).sum()
        loss.backward()
        if step == 0:
            result |= {"logits": logits.detach().clone(), "token_losses": losses.detach().view(BATCH, TOKENS).clone(),
                       "loss": loss.detach().view(1)}
            result |= {f"gradients.{k}": p.grad.clone() for k, p in model.named_parameters()}
        else:
            result["second_loss"] = loss.detach().view(1)
        optimizer.step()
    result |= {f"stepped.{k}": p.detach().clone() for k, p in model.named_parameters()}
    safetensors.torch.save_file({k: t.contiguous() for k, t in result.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.config.json").write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")


def make_sharded(folder):
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**CASES["llama3"] | dict(num_hidden_layers=2))).to(torch.bfloat16).save_pretrained(
        folder, max_shard_size="6KB")


def main():
    folder = pathlib.Path(__file__).resolve().parent
    for name, fields in CASES.items():
        make_case(name, fields, folder)
    make_sharded(folder / "sharded")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "safetensors": safetensors.__version__, "numpy": numpy.__version__,
                "learning_rate": LEARNING_RATE, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    (folder / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
