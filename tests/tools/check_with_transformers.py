"""Holds `skippipe convert` and `skippipe eval` against transformers, which must load what is converted and agree.

    python3 tests/tools/check_with_transformers.py build/release/skippipe TEXT    (needs torch, transformers)

TEXT is a UTF-8 text of some hundred kB. For small models of several configurations that transformers initializes:
Hugging Face folder -> stages -> Hugging Face folder gives the same logits, bit for bit, and the loss that eval finds;
the tokenizer learned from TEXT gives the same ids for its lines as `skippipe tokenize`.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

VOCABULARY, SEQUENCE, SAMPLES = 1000, 64, 4
SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=VOCABULARY, max_position_embeddings=256, initializer_range=0.1)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)
CASES = {
    "llama-2": SMALL | dict(num_key_value_heads=4),
    "llama-3.1": SMALL | dict(rope_parameters=LLAMA3_ROPE, eos_token_id=[2, 7]),
    "llama-3.2": SMALL | dict(rope_parameters=LLAMA3_ROPE | {"factor": 32.0}, tie_word_embeddings=True, head_dim=32),
    "tinyllama": SMALL | dict(num_attention_heads=8, rms_norm_eps=1e-5),
}


def read_shard(path):
    data = path.read_bytes()
    width, tokens, count = struct.unpack_from("<IQQ", data, 12)
    ids = struct.unpack_from(f"<{tokens}{'H' if width == 2 else 'I'}", data, 64)
    return ids, struct.unpack_from(f"<{count}Q", data, (64 + tokens * width + 7) // 8 * 8)


# Without the EOS that ends each.
def documents(path):
    ids, begins = read_shard(path)
    return [ids[a:b - 1] for a, b in zip(begins, begins[1:] + (len(ids),))]


# Those that `skippipe eval --samples SAMPLES` looks at.
def windows_of(path):
    ids, _ = read_shard(path)
    count = -(-(len(ids) - 1) // SEQUENCE)
    begins = [i * count // SAMPLES * SEQUENCE for i in range(SAMPLES)]
    return torch.tensor([ids[b:b + SEQUENCE + 1] for b in begins])


def check_tokenizer(run, folder, text, converted):
    lines = [line for line in text.read_text().split("\n") if line][:500]
    others = ["   three leading", "two  spaces", "tab\there", "\u00fcn\u00efc\u00f6d\u00e9 \u4f60\u597d \U0001f642",
              "aaaaaaaaaaa", "1234567890", "--------", " ", " x ", ".... ,,,,"]
    (folder / "lines").write_text("\n".join(lines + others) + "\n")
    run("tokenize", "--tokenizer", folder / "tok.model", "--out", folder / "lines-tokens", "--document-lines", 1,
        "--validation-share", 0.1, folder / "lines")
    expected = {ids for part in ("train", "validation") for ids in documents(folder / f"lines-tokens/{part}.tokens")}
    tokenizer = AutoTokenizer.from_pretrained(converted)
    for line in lines + others:
        ids = tokenizer.encode(line)
        assert tuple(tokenizer.encode(line + "\n")) in expected, line
        assert tokenizer.decode(ids) == line, line
    assert tokenizer.eos_token_id == 2 and tokenizer.bos_token_id == 1
    print(f"tokenizer: {len(lines + others)} lines have the same ids")


def check_model(run, folder, name, fields, dtype):
    torch.manual_seed(len(name))
    original = LlamaForCausalLM(LlamaConfig(**fields)).to(dtype)
    source, stages, back = (folder / f"{name}-{part}" for part in ("source", "stages", "back"))
    original.save_pretrained(source, max_shard_size="200KB")
    run("convert", source, "--out", stages, "--layers-per-stage", "0,1,2,1", "--tokenizer", folder / "tok.model")
    short = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    run("convert", stages, "--out", back, "--dtype", short, "--max-shard-size", "150KB")
    converted = AutoModelForCausalLM.from_pretrained(back, dtype="auto")
    assert converted.dtype == dtype, converted.dtype
    for key, tensor in original.state_dict().items():
        assert torch.equal(tensor, converted.state_dict()[key]), key
    for key in ("rope_parameters", "eos_token_id", "bos_token_id", "tie_word_embeddings", "head_dim"):
        assert getattr(original.config, key) == getattr(converted.config, key), key

    tokens = torch.randint(0, VOCABULARY, (2, SEQUENCE))
    original, converted = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (source, back))
    with torch.no_grad():
        assert torch.equal(original(tokens).logits, converted(tokens).logits)
    run("eval", "--model", stages, "--data", folder / "tokens/validation.tokens", "--tokens", SEQUENCE, "--samples",
        SAMPLES, "--json", folder / "eval.json")
    result = json.loads((folder / "eval.json").read_text())["results"][0]["choices"][0]["loss"]
    windows = windows_of(folder / "tokens/validation.tokens")
    with torch.no_grad():
        logits = converted(windows[:, :-1]).logits.flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(logits.double(), windows[:, 1:].flatten()).item()
    assert abs(result - expected) < 1e-4, (result, expected)
    print(f"{name}: weights and logits are the same; eval's loss is {result:.5f}, that of transformers {expected:.5f}")


def main():
    program, text = sys.argv[1], pathlib.Path(sys.argv[2])

    def run(*arguments):
        subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run("tokenizer", "--vocabulary", VOCABULARY, "--out", folder / "tok.model", text)
        run("tokenize", "--tokenizer", folder / "tok.model", "--out", folder / "tokens", "--document-lines", 20,
            "--validation-share", 0.1, text)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for case, fields in CASES.items():
                case = f"{case}-{str(dtype).split('.')[1]}"
                check_model(run, folder, case, fields, dtype)
        check_tokenizer(run, folder, text, folder / f"{case}-back")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
