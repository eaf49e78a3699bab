"""Token ids and decoded text against `tokenizers` and `transformers`.

    python tests/parity/text/tokenizer_parity.py --build BUILD_DIR [--strings 4000] [--real 100000] [--gsm8k FOLDER]

Compared, one `assay-train tokenize` a tokenizer: all questions of GSM8K where the data is there; nasty strings from a
seeded generator, 100000 of them for the two real vocabularies; decoding of those ids and of random ids, with and without
special tokens, at once and as a stream. Tokenizers: SmolLM2's where `make smollm2` made it, Qwen2's (from the ranks that
PyPI dashscope ships), the shipped base model's, and small ones trained here that use every pre-tokenizer, normalizer and
added-token flag that is supported.
"""
import argparse
import base64
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[3]

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError as error:
    print(f"SKIPPED: {error}; tools/parity-setup.sh installs it")
    sys.exit(0)

QWEN25 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN25.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# Parts of patterns where PCRE2 and Oniguruma could go different ways; empty matches; classes with negated escapes.
ODD = r"\d\D?|[\S&]?x*|\p{P}+[^\p{S}\s]|(?<=a)b|\P{L}{2}|[^\S\r\n]+|\f\v?|.\x{e9}"
byte_level = pre_tokenizers.ByteLevel


def split(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(add_prefix_space=False, use_regex=False)]
    )


VARIANTS = {
    "qwen2.5-like": (normalizers.NFC(), split(QWEN25)),
    "llama3-like": (None, split(LLAMA3)),
    "o200k-like": (normalizers.Sequence([normalizers.NFC()]), split(O200K)),
    "gpt2-like": (None, byte_level(add_prefix_space=True, use_regex=True)),
    "digit-runs": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(False), byte_level(add_prefix_space=True)])),
    "digits": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(add_prefix_space=False)])),
    "odd-pattern": (None, split(ODD)),
}


def train(name, folder, corpus, size=1200):
    """A tokenizer of so many tokens with every kind of added token; the file it lies in is what both sides read."""
    normalizer, pre_tokenizer = VARIANTS[name]
    made = Tokenizer(models.BPE())
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=byte_level.alphabet() if name != "digits" else [],  # "digits" lacks bytes on purpose
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    made.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    made.add_tokens(
        [
            AddedToken("<tool_call>", normalized=False),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=True),
            AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("  ", normalized=False, rstrip=True),
            AddedToken("caf\u00e9", normalized=True),
            AddedToken("<lef", normalized=False),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    if name == "llama3-like":
        # The older form of merges, and ignore_merges: a word that is a token needs no merging.
        data = json.loads((folder / "tokenizer.json").read_text())
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        data["model"]["ignore_merges"] = True
        (folder / "tokenizer.json").write_text(json.dumps(data))


def qwen_folder(folder):
    """Qwen2's tokenizer.json, out of the 151643 ranks of qwen.tiktoken; None where dashscope is not installed."""
    found = importlib.util.find_spec("dashscope")
    if not found:
        return None
    lines = (Path(found.submodule_search_locations[0]) / "resources/qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    # GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on.
    alphabet, next_code = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            alphabet[byte] = chr(byte)
        else:
            alphabet[byte], next_code = chr(next_code), next_code + 1

    def written(token):
        return "".join(alphabet[byte] for byte in token)

    def halves(token, rank):
        """The two tokens whose merge made this one: merge by rank as long as that is below its own."""
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            assert ranks.get(parts[at] + parts[at + 1], rank) < rank, token
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return parts

    merges = [tuple(map(written, halves(token, rank))) for token, rank in sorted(ranks.items(), key=lambda e: e[1]) if len(token) > 1]
    made = Tokenizer(models.BPE(vocab={written(token): rank for token, rank in ranks.items()}, merges=merges))
    made.normalizer, made.pre_tokenizer = VARIANTS["qwen2.5-like"]
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    assert made.token_to_id("<|im_end|>") == 151645
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def nasty_strings(count, seed, more=False):
    draw = random.Random(seed)
    spaces = [" ", "  ", "   ", "\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u180e", "\u2000"]
    spaces += ["\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", " \n \n", "\n\n\n", " " * 17]
    words = "the The Tom's can't I'LL we've you'RE 'S '\u017f \u2019s don\u2019t x'M a'D na\u00efve cafe\u0301 caf\u00e9 \u1e9b\u0323".split()
    words += "\u0130 \u01c5 \u00aa \u1d2c \u02b0 \u0915\u094d\u0937\u093f \u0e01\u0e33 \u6f22\u5b57\u304b\u306a \ud55c\uae00 \u1112\u1161\u11ab \u0645\u0631\u062d\u0628\u0627 \u05e9\u05c1\u05dc\u05d5\u05dd".split()
    numbers = "0 7 12 1234567 3.14 1,000 $5 50% 1/2 \u00bd \u00b2 \u2163 \u0664\u0665 \u096a \u3007 \u2460 \U0001d7d8 \U00010d45 \U00011de5 \u5341".split()
    marks = list("!?.,;:-_()[]{}<>@#&*+=/\\|~^`'\"") + ["\u2014", "\u2026", "\u20ac", "\u00a7", "...", "####", "<<3+4=7>>", "''"]
    marks += ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\x00", "\x7f", "\ufffd", "\u0120", "\u010a", "\u0301"]
    tokens = "<|endoftext|> <|im_start|> <|im_end|> <|im_ <tool_call> <left> <right> <both> <lef <repo_name> <jupyter_code>".split()
    tokens += [" <left>", "<right>  ", " <both> \n", "<right> <left>", "<both><both>", "   <right>   <both>   "]
    later = [chr(c) for c in (0x1C89, 0xA7CB, 0x105C0, 0x10D40, 0x11F04, 0x1E4F0, 0x31350, 0x1CCF0, 0x897, 0x1FAE9)]
    marking = [chr(c) for c in (0x300, 0x301, 0x323, 0x308, 0x345, 0x5B0, 0x94D, 0x3099, 0x1AC0, 0x8D0, 0x1DF6, 0x11938, 0x11935, 0x11930)]

    def any_character():
        while True:
            code = draw.choice([draw.randrange(0x300), draw.randrange(0x3100), draw.randrange(0x10000), draw.randrange(0x110000)])
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    kinds = [
        lambda: draw.choice(spaces),
        lambda: draw.choice(words),
        lambda: draw.choice(numbers),
        lambda: draw.choice(marks),
        lambda: draw.choice(tokens),
        lambda: draw.choice(later),
        lambda: draw.choice("aeiouAEIOU\u03b1\u0627\u304b\u0c46\u1112\u1161") + "".join(draw.choices(marking, k=draw.randrange(1, 4))),
        lambda: "".join(any_character() for _ in range(draw.randrange(1, 6))),
        lambda: draw.choice([" ", "a", "7", "\n", "'", "\u6f22", "."]) * draw.randrange(1, 40),
        lambda: "".join(chr(draw.randrange(32, 127)) for _ in range(draw.randrange(1, 12))),
    ]
    if more:  # behind the others, so that the golden cases stay what they are
        kinds += [
            # Broken UTF-8, replaced by U+FFFD: bytes at random, and good text with bytes lost.
            lambda: draw.randbytes(draw.randrange(1, 16)).decode("utf-8", "replace"),
            lambda: bytes(b for b in draw.choice(words + later).encode() if draw.random() < 0.8).decode("utf-8", "replace"),
            lambda: chr(draw.randrange(1, 17) * 0x10000 + draw.randrange(0x10000)),  # every plane alike
            lambda: draw.choice("0123456789\u0660\u0967\uff11") * draw.randrange(1, 120),
            lambda: draw.choice([" ", "\t", "\n", "\r\n", "\u3000"]) * draw.randrange(40, 160),
            lambda: draw.choice(tokens)[: draw.randrange(1, 9)] + draw.choice(tokens)[draw.randrange(9):],
        ]
    strings = ["", " ", "\n", "\u0301", "<|im_end|>", " " * 10000 + "x", "a" * 10000, "1" * 3000, "\n" * 5000, "'" * 5000]
    strings += ["".join(chr(c) for c in range(start, start + 512) if not 0xD800 <= c < 0xE000) for start in range(0, 0x3000, 512)]
    while len(strings) < count:
        weights = [draw.random() ** 2 for _ in kinds]
        strings.append("".join(kind() for kind in draw.choices(kinds, weights, k=draw.randrange(1, 10 if more else 24))))
    return strings


def ours(build, folder, lines):
    start = time.time()
    run = subprocess.run(
        [str(build / "bin" / "assay-train"), "tokenize", "--model", str(folder)],
        input="".join(json.dumps(line) + "\n" for line in lines).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    out = [json.loads(line) for line in run.stdout.decode().split("\n")[:-1]]
    assert len(out) == len(lines), f"{len(out)} lines for {len(lines)}"
    return out, time.time() - start


def gsm8k_questions(folder):
    candidates = [folder] if folder else [ROOT / "data/gsm8k", ROOT / "experiments/gsm8k", ROOT.parent / "shared/data/gsm8k"]
    for candidate in candidates:
        files = [candidate / "train.jsonl", candidate / "test.jsonl"]
        if all(file.exists() for file in files):
            return [json.loads(line)["question"] for file in files for line in file.read_text("utf-8").split("\n") if line]
    print("SKIPPED: the questions of GSM8K: no train.jsonl and test.jsonl; give --gsm8k FOLDER")
    return []


class Comparison:
    def __init__(self):
        self.different = 0

    def check(self, what, inputs, theirs, mine, key):
        wrong = [i for i, (a, b) in enumerate(zip(theirs, mine)) if b.get(key) != a]
        for i in wrong[:3]:
            print(f"  DIFFERENT {inputs[i]!r:.300}\n    theirs {theirs[i]!r:.300}\n    ours   {str(mine[i])!r:.300}")
        print(f"  {what}: {len(inputs)} compared, {len(wrong)} different")
        self.different += len(wrong)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--build", type=Path, required=True)
    arguments.add_argument("--strings", type=int, default=4000)
    arguments.add_argument("--real", type=int, default=100000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--gsm8k", type=Path)
    options = arguments.parse_args()
    if not (options.build / "bin" / "assay-train").exists():
        print(f"SKIPPED: {options.build}/bin/assay-train is not built")
        return 0

    scratch = options.build / "test-data" / "tokenizer-parity"
    corpus = [file.read_text("utf-8") for pattern in ("docs/*.md", "*.md", "trainer/text/*.h") for file in sorted(ROOT.glob(pattern))]
    folders = {}
    for name, folder in {"SmolLM2-135M-Instruct": ROOT / ".cache/smollm2-135m-instruct", "e13 base": ROOT / "experiments/e13/model"}.items():
        if (folder / "tokenizer.json").exists():
            folders[name] = folder
        else:
            print(f"SKIPPED: {name}: {folder.relative_to(ROOT)} has no tokenizer.json")
    if qwen := qwen_folder(scratch / "qwen2"):
        folders["Qwen2"] = qwen
    else:
        print("SKIPPED: Qwen2: dashscope is not installed; tools/parity-setup.sh installs it")
    for name in VARIANTS:
        train(name, scratch / name, corpus)
        folders[name] = scratch / name

    questions = gsm8k_questions(options.gsm8k)
    few, many = nasty_strings(options.strings, options.seed), nasty_strings(options.real, options.seed + 1, more=True)
    comparison = Comparison()
    for name, folder in folders.items():
        reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
        reference.no_truncation()
        reference.no_padding()
        print(f"{name} ({reference.get_vocab_size()} tokens), tokenizers {tokenizers.__version__}")
        sets = {"nasty strings": many if name in ("SmolLM2-135M-Instruct", "Qwen2") else few}
        if questions:
            sets["GSM8K questions"] = questions
        for what, texts in sets.items():
            theirs = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
            mine, seconds = ours(options.build, folder, [{"text": text} for text in texts])
            comparison.check(f"ids of {what} ({seconds:.2f} s)", texts, theirs, mine, "ids")
            if what == "nasty strings":
                encoded = theirs[:20000]
            elif folder in (ROOT / ".cache/smollm2-135m-instruct", ROOT / "experiments/e13/model"):
                import transformers

                fast = transformers.AutoTokenizer.from_pretrained(str(folder))
                theirs = fast(texts, add_special_tokens=False)["input_ids"]
                comparison.check(f"ids of {what}, transformers {transformers.__version__}", texts, theirs, mine, "ids")
        draw = random.Random(options.seed)
        known = sorted(reference.get_vocab().values())
        encoded = encoded + [draw.choices(known, k=draw.randrange(1, 30)) for _ in range(len(encoded))]
        for skip in (False, True):
            theirs = [reference.decode(ids, skip_special_tokens=skip) for ids in encoded]
            mine, seconds = ours(options.build, folder, [{"ids": ids, "skip_special": skip} for ids in encoded])
            comparison.check(f"text of ids{' without special tokens' if skip else ''} ({seconds:.2f} s)", encoded, theirs, mine, "text")
            pieces, seconds = ours(options.build, folder, [{"ids": ids, "skip_special": skip, "stream": True} for ids in encoded])
            joined = [{"text": "".join(answer["pieces"])} for answer in pieces]
            comparison.check(f"the same as a stream ({seconds:.2f} s)", encoded, theirs, joined, "text")
    print(f"{comparison.different} different")
    return 1 if comparison.different else 0


if __name__ == "__main__":
    sys.exit(main())
