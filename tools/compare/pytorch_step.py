#!/usr/bin/env python3
"""A training step of `skippipe bench` against PyTorch with transformers' Llama, not compiled: same model, batch, threads.

Needs torch and transformers (pip); the project and its tests do not. The two run in turns, so that both see the same
neighbours on the machine; the figures are medians over all steps.

  tools/compare/pytorch_step.py --skippipe build/release/skippipe --threads 2
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skippipe", default="build/release/skippipe", help="the program to compare")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"), help="of transformers")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a turn")
    return parser.parse_args()


def model_config(attention):
    """That of `skippipe bench` without --config."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
        vocab_size=4096, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=False,
        attn_implementation=attention)


class PyTorch:
    def __init__(self, arguments):
        import torch
        from transformers import LlamaForCausalLM

        torch.set_num_threads(arguments.threads)
        torch.manual_seed(1)
        self.model = LlamaForCausalLM(model_config(arguments.attention)).to(torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
        self.tokens = torch.randint(0, 4096, (arguments.samples, arguments.tokens))
        self.version = torch.__version__

    def step(self):
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - begin, loss.item()

    def turn(self, steps):
        self.step()  # the first after the other's turn finds cold caches
        return [self.step()[0] for _ in range(steps)]


def skippipe_turn(arguments, steps):
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "bench.json")
        subprocess.run(
            [arguments.skippipe, "bench", "--threads", str(arguments.threads), "--samples", str(arguments.samples),
             "--tokens", str(arguments.tokens), "--steps", str(steps), "--json", report],
            check=True, stdout=subprocess.DEVNULL)
        with open(report) as file:
            return json.load(file)["results"][0]["steps_s"]


def main():
    arguments = parse_arguments()
    pytorch = PyTorch(arguments)
    first, last = pytorch.step()[1], pytorch.step()[1]
    assert last < first, f"PyTorch's loss went from {first} to {last}"
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours += skippipe_turn(arguments, arguments.steps)
        theirs += pytorch.turn(arguments.steps)
    tokens = arguments.samples * arguments.tokens
    for name, seconds in (("skippipe", ours), (f"PyTorch {pytorch.version}, {arguments.attention}", theirs)):
        print(f"{name:<27} {statistics.median(seconds):6.3f} s per step ({min(seconds):.3f} to {max(seconds):.3f}), "
              f"{tokens / statistics.median(seconds):7.0f} tokens/s")
    print(f"skippipe over PyTorch: {statistics.median(theirs) / statistics.median(ours):.2f} x the tokens/s")


if __name__ == "__main__":
    main()
