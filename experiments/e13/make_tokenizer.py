"""Trains the byte-level BPE of the embedded default on the generator's own text and writes the tokenizer files.

    assay-train problems experiments/e13/pretrain.toml --out BUILD/tokenizer --documents 20000
    python experiments/e13/make_tokenizer.py BUILD/tokenizer/documents.jsonl experiments/e13/model

Needs the `tokenizers` package (0.22 was used). The same text gives the same files. At most 512 tokens: the 256 bytes,
one special token, and merges until every word of the templates is a single token. Digits stand one by one, as in
Qwen2, whose split pattern this is.
"""
import json
import pathlib
import sys

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    documents, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    texts = []
    for line in documents.read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        texts.append(document["prompt"] + document["completion"])

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=512, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))

    words = {word for text in texts for word in text.replace("\n", " ").split(" ")}
    split = sorted(w for w in words if w.isalpha() and len(tokenizer.encode(" " + w).ids) > 1 and
                   len(tokenizer.encode(w).ids) > 1)
    if split:
        sys.exit(f"words that take more than one token: {split}")

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": 256,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens from {len(texts)} documents")


if __name__ == "__main__":
    main()
