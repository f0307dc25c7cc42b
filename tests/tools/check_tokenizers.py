"""Holds the tokenizer.json that `skippipe convert` writes against Hugging Face's libraries, which must find the ids that
SentencePiece finds, for SentencePiece models of many settings; those that can't be expressed must be refused.

    python3 tests/tools/check_tokenizers.py build/release/skippipe TEXT    (needs sentencepiece, tokenizers, transformers)

TEXT is a UTF-8 text of some hundred kB.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import Tokenizer
from transformers import AutoTokenizer

BASE = dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False, minloglevel=2)
USER = ["<sep>", "<sep>>", "the", "  "]
# What the trainer is given beside BASE, and whether it can be expressed.
MODELS = {
    "as we train": (dict(allow_whitespace_only_pieces=True, split_digits=True, character_coverage=0.9995), True),
    "dummy prefix, as llama 2": (dict(add_dummy_prefix=True, split_digits=True), True),
    "no bytes": (dict(byte_fallback=False, character_coverage=0.99), True),
    "no bytes, dummy prefix": (dict(byte_fallback=False, character_coverage=0.99, add_dummy_prefix=True), True),
    "across words": (dict(split_by_whitespace=False, split_by_unicode_script=False, split_by_number=False), True),
    "user-defined": (dict(user_defined_symbols=USER[:3]), True),
    "control": (dict(control_symbols=["<a>", "<b>"], pad_id=3), True),
    "suffix without dummy prefix": (dict(treat_whitespace_as_suffix=True), True),
    "suffix": (dict(treat_whitespace_as_suffix=True, add_dummy_prefix=True), False),
    "user-defined, dummy prefix": (dict(user_defined_symbols=USER[:3], add_dummy_prefix=True), False),
    "user-defined space": (dict(user_defined_symbols=USER), False),
    "unigram": (dict(model_type="unigram"), False),
    "normalizing": (dict(normalization_rule_name="nmt_nfkc"), False),
    "removing spaces": (dict(remove_extra_whitespaces=True), False),
}


def write_model(folder, vocabulary):
    folder.mkdir()
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=8,
                  intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=vocabulary,
                  tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {f"{layer}self_attn.{x}_proj.weight": [8, 8] for x in "qkvo"} | \
             {f"{layer}mlp.{x}_proj.weight": [8, 8] for x in ("gate", "up", "down")} | \
             {f"{layer}{x}_layernorm.weight": [8] for x in ("input", "post_attention")} | \
             {"model.norm.weight": [8], "model.embed_tokens.weight": [vocabulary, 8]}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def texts(lines):
    others = ["   three leading", "two  spaces", "trailing  ", "tab\there", "\u00fcn\u00efc\u00f6d\u00e9 \u4f60\u597d \U0001f642",
              "aaaaaaaaaaa", "1234567890", "--------", " ", "   ", " x ", ".... ,,,,", "\n\n x\r\n", "<sep>a<sep>>b <sep>",
              "the<sep>the", "<se<sep>p>", "\u00a0\u3000\u200b", "\ufffd", "x\u0000y", "<0x41>", "a<0x41>", "e\u0301"]
    draw = random.Random(1)
    alphabet = ["a", "e", "t", "th", "the", " ", "  ", "\n", "1", "23", ".", "<sep>", "\u00e9", "\u4f60", "\U0001f642", "an", "nd"]
    mixed = ["".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 40))) for _ in range(2000)]
    return lines + others + mixed + ["\n".join(lines[:200])]


def check(program, folder, name, serialized, expressible, lines):
    (folder / "t.model").write_bytes(serialized)
    processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
    source, out = folder / f"{name}-source", folder / f"{name}-out"
    write_model(source, processor.get_piece_size())
    result = subprocess.run([program, "convert", source, "--out", out, "--tokenizer", folder / "t.model"],
                            capture_output=True, text=True)
    if result.returncode != 0:
        assert not expressible, f"{name}: {result.stderr}"
        print(f"{name}: {result.stderr.strip()}")
        return
    assert expressible, f"{name}: was not refused"
    library, whole = Tokenizer.from_file(str(out / "tokenizer.json")), AutoTokenizer.from_pretrained(out)
    for text in lines:
        expected = processor.encode(text)
        assert library.encode(text).ids == expected, (name, text, library.encode(text).ids, expected)
        assert whole.encode(text) == expected, (name, text, whole.encode(text), expected)
    assert whole.eos_token_id == processor.eos_id() and whole.bos_token_id == processor.bos_id()
    print(f"{name}: {len(lines)} texts have the same ids")


# Pieces with one score, of which SentencePiece makes the one further left.
def with_ties(serialized):
    model = protobuf.ModelProto.FromString(serialized)
    for piece in model.pieces:
        if piece.type == 1 and len(piece.piece) > 1:
            piece.score = -1
    return model.SerializeToString()


def main():
    program, text = sys.argv[1], pathlib.Path(sys.argv[2])
    lines = texts([line for line in text.read_text().split("\n") if line][:1000])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for name, (options, expressible) in MODELS.items():
            options = BASE | options
            if options["model_type"] == "unigram":
                options["hard_vocab_limit"] = False
            sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(folder / "trained"), **options)
            serialized = (folder / "trained.model").read_bytes()
            check(program, folder, name, serialized, expressible, lines)
            if name == "as we train":
                check(program, folder, "ties", with_ties(serialized), False, lines)
        subprocess.run([program, "tokenizer", "--vocabulary", "1000", "--out", folder / "own.model", text], check=True,
                       stdout=subprocess.DEVNULL)
        check(program, folder, "our own", (folder / "own.model").read_bytes(), True, lines)


if __name__ == "__main__":
    main()
