"""Logits of the models that are really used, against transformers: the series' own model (1e-4) and
SmolLM2-135M-Instruct on GSM8K questions (1e-3).

python tests/parity/model/real_models_parity.py --build BUILD_DIR [--questions 32]
"""
import argparse
import json
import pathlib
import subprocess
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"SKIPPED: {error.name} is not installed in this Python")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[3]
CASES = [  # folder, file of questions, bound, whether the chat template goes around a question
    (ROOT / "experiments/e13/model", ROOT / "experiments/e13/data/test.jsonl", 1e-4, False),
    (ROOT / ".cache/smollm2-135m-instruct", ROOT / "experiments/gsm8k/test.jsonl", 1e-3, True),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--questions", type=int, default=32)
    arguments = parser.parse_args()
    program = pathlib.Path(arguments.build) / "bin" / "model_logits"
    out = pathlib.Path(arguments.build) / "parity" / "real-logits.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    good = True
    for folder, questions, bound, chat in CASES:
        if not (folder / "model.safetensors").exists():
            print(f"SKIPPED: {folder.relative_to(ROOT)} is not there" + (" (make smollm2)" if chat else ""))
            continue
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = []
        for line in questions.read_text().splitlines()[:arguments.questions]:
            question = json.loads(line)["question"]
            if chat:
                question = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                                         add_generation_prompt=True)
            else:
                question += "\n"
            ids.append(tokenizer.encode(question, add_special_tokens=False))
        subprocess.run([program, folder, out], input="\n".join(map(json.dumps, ids)), text=True, check=True)
        ours = load_file(out)
        worst = largest = 0.0
        with torch.no_grad():
            for i, row in enumerate(ids):
                theirs = model(torch.tensor([row])).logits[0]
                worst = max(worst, (theirs - ours[f"logits.{i}"]).abs().max().item())
                largest = max(largest, theirs.abs().max().item())
        out.unlink()
        print(f"{folder.relative_to(ROOT)}: {len(ids)} questions of {questions.relative_to(ROOT)}, {sum(map(len, ids))} tokens: logits "
              f"differ by {worst:.2e} at most (largest {largest:.1f}){'' if worst <= bound else f'   <-- above {bound}'}")
        good &= worst <= bound
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
