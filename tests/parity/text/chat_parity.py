"""Chat templates against transformers' apply_chat_template: token ids of conversations, with and without the prompt for
an answer.

    python tests/parity/text/chat_parity.py --build BUILD_DIR

The templates are those of tests/golden/text and, where the folder is there, SmolLM2's own.
"""
import argparse
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[3]

try:
    import transformers
    from tokenizer_parity import Comparison, ours
except ImportError as error:
    print(f"SKIPPED: {error}; tools/parity-setup.sh installs it")
    sys.exit(0)


def fast_tokenizer(tokenizer_folder, template_folder):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json"))
    tokenizer.chat_template = (template_folder / "chat_template.jinja").read_text("utf-8")
    if (template_folder / "tokenizer_config.json").exists():  # Llama 3's begins with this token
        tokenizer.bos_token = json.loads((template_folder / "tokenizer_config.json").read_text())["bos_token"]
    return tokenizer


def conversations():
    contents = ["Hi", "", " spaces around \n", "two\nlines\n\n", "<|im_end|> inside <|im_start|>user", "{{ messages }} {% if %}",
                "caf\u00e9 \u6f22\u5b57 \U0001f600", "What is 12 + 30? Give the final answer in the form \"#### number\".", "'quoted' & <b>"]
    # What Qwen3's template takes apart, and what Llama 3's strips.
    contents += ["<think>\nhm\n\nso\n</think>\n\nIt is 42.", "<think></think>no thought", "two</think>\n\nmarks</think>\nend", "\n<think>a<think>b\n</think>",
                 "<tool_response>\n5\n</tool_response>", "\u2003\x1c\x85 wide \u3000\xa0", "\u200b not a space \ufeff"]
    result = []
    for i, content in enumerate(contents):
        other = contents[(i + 3) % len(contents)]
        user, system, assistant = ({"role": role, "content": content} for role in ("user", "system", "assistant"))
        result += [[user], [system], [assistant], [system, {"role": "user", "content": other}]]
        result += [[{"role": "user", "content": other}, assistant, user], [user, system], [system, system, user, assistant]]
        result += [[{"role": "system", "content": other}, user, {"role": "assistant", "content": other}, user, user]]
    return result


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--build", type=Path, required=True)
    options = arguments.parse_args()
    if not (options.build / "bin" / "assay-train").exists():
        print(f"SKIPPED: {options.build}/bin/assay-train is not built")
        return 0
    golden = ROOT / "tests/golden/text"
    folders = []
    for template in sorted(golden.glob("chat-*")):
        folder = options.build / "test-data" / "chat-parity" / template.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(golden / "qwen2.5-like" / "tokenizer.json", folder)
        for file in template.glob("*.j*"):
            if file.name != "cases.jsonl":
                shutil.copy(file, folder)
        folders.append((template.name, folder, fast_tokenizer(folder, folder)))
    smollm2 = ROOT / ".cache/smollm2-135m-instruct"
    if (smollm2 / "tokenizer.json").exists():
        folders.append(("SmolLM2-135M-Instruct", smollm2, transformers.AutoTokenizer.from_pretrained(str(smollm2))))
    else:
        print("SKIPPED: SmolLM2-135M-Instruct: run `make smollm2` first")

    comparison = Comparison()
    for name, folder, tokenizer in folders:
        lines = [{"messages": m, "add_generation_prompt": prompt} for m in conversations() for prompt in (True, False)]
        theirs = []
        for line in lines:
            ids = tokenizer.apply_chat_template(line["messages"], add_generation_prompt=line["add_generation_prompt"])
            theirs.append(list(ids["input_ids"] if hasattr(ids, "keys") else ids))
        mine, _ = ours(options.build, folder, lines)
        comparison.check(f"{name}: ids of conversations, transformers {transformers.__version__}", lines, theirs, mine, "ids")
    print(f"{comparison.different} different")
    return 1 if comparison.different else 0


if __name__ == "__main__":
    sys.exit(main())
