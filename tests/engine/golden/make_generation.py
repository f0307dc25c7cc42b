"""Makes generation.json with transformers: how each golden model goes on greedily. Run after make_golden.py.

    python3 tests/engine/golden/make_generation.py      (needs torch, transformers, safetensors)
"""

import json
import pathlib

import safetensors.torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 40
SMALLEST_LEAD = 1e-3  # of the chosen logit before the next one: rounding must not decide


def continuation(folder, name):
    config = LlamaConfig(**json.loads((folder / f"{name}.config.json").read_text()))
    model = LlamaForCausalLM(config).float().eval()
    golden = safetensors.torch.load_file(folder / f"{name}.safetensors")
    weights = {k.removeprefix("weights."): t for k, t in golden.items() if k.startswith("weights.")}
    model.load_state_dict(weights, strict=False)
    prompt = golden["tokens"][:1].long()
    result = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=TOKENS,
                            eos_token_id=-1, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    for logits in result.logits:
        first, second = logits[0].topk(2).values
        assert first - second > SMALLEST_LEAD, f"{name}: the choice is too close"
    tokens = result.sequences[0].tolist()
    return {"prompt": tokens[: prompt.shape[1]], "continuation": tokens[prompt.shape[1]:]}


def main():
    folder = pathlib.Path(__file__).resolve().parent
    result = {name: continuation(folder, name) for name in ("untied", "tied", "llama3")}
    (folder / "generation.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
