"""The shipped base model in `transformers`: same token ids, same log-probabilities, and it can be sampled from.

    python tests/parity/task/base_model_parity.py --build BUILD_DIR [--problems 64]

The folder is opened with AutoTokenizer and AutoModelForCausalLM as any other. Token ids of all shipped questions and
answers must be equal. Log-probabilities of each token of question, newline, answer and end of text must agree within
1e-4 with `assay-train logprobs`: a log-probability is a logit less the logarithm of the sum over all of them, so that
an error of one logit shows. Greedy answers of transformers are held against the accuracy in the model card.
"""
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[3]

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print(f"SKIPPED: {error}; tools/parity-setup.sh installs it")
    sys.exit(0)


def ask(program, verb, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([str(program), verb, "--model", str(ROOT / "experiments/e13/model")], input=text,
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"assay-train {verb} ended with {done.returncode}: {done.stderr}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors or len(answers) != len(lines):
        sys.exit(f"assay-train {verb}: {len(answers)} answers to {len(lines)} lines; {errors[:3]}")
    return answers


def right(completion, gold):
    found = re.findall(r"#### (\-?[0-9\.\,]+)", completion)
    return bool(found) and found[-1] == gold


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--problems", type=int, default=64)
    arguments = parser.parse_args()
    program = Path(arguments.build) / "bin" / "assay-train"
    folder = ROOT / "experiments/e13/model"
    failed = False

    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"folder: {size} bytes in {len(list(folder.iterdir()))} files")
    failed |= size > 3_000_000

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters")

    data = ROOT / "experiments/e13/data"
    problems = {name: [json.loads(line) for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
                for name in ("train", "test")}
    texts = [problem["question"] + "\n" + problem["answer"] + tokenizer.eos_token
             for name in problems for problem in problems[name]]
    expected = tokenizer(texts, add_special_tokens=False).input_ids
    ours = [answer["ids"] for answer in ask(program, "tokenize", [{"text": text} for text in texts])]
    different = sum(a != b for a, b in zip(ours, expected))
    print(f"token ids: {different} of {len(texts)} texts differ")
    failed |= different > 0

    test = problems["test"][:arguments.problems]
    sequences = expected[len(problems["train"]):][:len(test)]
    answers = ask(program, "logprobs", [{"ids": ids} for ids in sequences])
    worst = 0.0
    count = 0
    with torch.no_grad():
        for ids, answer in zip(sequences, answers):
            row = torch.tensor([ids])
            theirs = model(row).logits[0, :-1].double().log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
            mine = torch.tensor(answer["logprobs"], dtype=torch.float64)
            if mine.shape != theirs.shape:
                sys.exit(f"logprobs: {len(mine)} values for {len(ids)} tokens")
            worst = max(worst, (mine - theirs).abs().max().item())
            count += len(mine)
    print(f"log-probabilities: {count} compared, largest difference {worst:.2e} (allowed 1e-4)")
    failed |= not worst <= 1e-4

    # Every token id is in a vocabulary that both sides agree on, the last one included.
    last = len(tokenizer) - 1
    everything = list(range(last + 1))[:240]
    mine = torch.tensor(ask(program, "logprobs", [{"ids": everything}])[0]["logprobs"], dtype=torch.float64)
    with torch.no_grad():
        row = torch.tensor([everything])
        theirs = model(row).logits[0, :-1].double().log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
    far = (mine - theirs).abs().max().item()
    print(f"a sequence of {len(everything)} different tokens: largest difference {far:.2e} (allowed 1e-4)")
    failed |= not far <= 1e-4

    tokenizer.padding_side = "left"
    batch = tokenizer([problem["question"] + "\n" for problem in test], return_tensors="pt", padding=True,
                      add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=48, do_sample=False)
    completions = tokenizer.batch_decode(out[:, batch.input_ids.shape[1]:], skip_special_tokens=True)
    correct = sum(right(completion, problem["answer"].split("#### ")[1])
                  for completion, problem in zip(completions, test))
    accuracy = 100 * correct / len(test)
    card = (folder / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"^\| all \| \| \d+ \| ([0-9.]+) \|", card, re.M).group(1))
    print(f"greedy accuracy in transformers: {accuracy:.1f} % of {len(test)} problems; the model card says {stated} % of all")
    margin = 100 * 4 * (stated / 100 * (1 - stated / 100) / len(test)) ** 0.5
    failed |= abs(accuracy - stated) > margin

    print("FAILED" if failed else "ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
