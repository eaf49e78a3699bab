"""Greedy generation of SmolLM2-135M-Instruct: 256 tokens behind each of 32 prompts, ours against transformers'.

python tests/parity/model/greedy_smollm2.py --build BUILD_DIR [--prompts 32] [--tokens 256] [--generate 4]

Each of our tokens must be the argmax of transformers' logits behind the tokens before it (one forward pass a prompt over
all of them): by induction that is what greedy generation gives. For the first few prompts transformers' own generate(),
with its cache, is run as well. A difference counts as a near-tie where transformers' two largest logits are closer than
1e-3, ten times what its logits differ from ours at most; it is printed, and what comes behind it in that prompt is not
compared token by token but again as an argmax given our tokens.
"""
import argparse
import json
import pathlib
import subprocess
import sys

try:
    import torch
    import transformers
except ImportError as error:
    print(f"SKIPPED: {error.name} is not installed in this Python")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[3]
NEAR = 1e-3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--generate", type=int, default=4)
    arguments = parser.parse_args()
    folder = ROOT / ".cache/smollm2-135m-instruct"
    if not (folder / "model.safetensors").exists():
        print("SKIPPED: SmolLM2 is not there (make smollm2)")
        return 0
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    asked = [json.loads(line)["question"] for file in ("experiments/smollm2-words/data/test.jsonl", "experiments/gsm8k/test.jsonl")
             for line in (ROOT / file).read_text("utf-8").splitlines()[: arguments.prompts // 2]]
    prompts = [tokenizer.encode(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True),
                                add_special_tokens=False) for text in asked]
    done = subprocess.run([pathlib.Path(arguments.build) / "bin" / "model_logits", folder, "--greedy", str(arguments.tokens)],
                          input="\n".join(map(json.dumps, prompts)), text=True, check=True, stdout=subprocess.PIPE)
    # The end of text may come earlier: it is a token like others here, on both sides.
    ours = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ours) == len(prompts) and all(len(row) == arguments.tokens for row in ours)
    different = near = 0
    closest = float("inf")
    with torch.no_grad():
        for number, (prompt, row) in enumerate(zip(prompts, ours)):
            logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1:-1]
            top = logits.topk(2, -1)
            margin = top.values[:, 0] - top.values[:, 1]
            closest = min(closest, margin.min().item())
            for at in (top.indices[:, 0] != torch.tensor(row)).nonzero().flatten().tolist():
                gap = (top.values[at, 0] - logits[at, row[at]]).item()
                is_near = gap < NEAR
                near += is_near
                different += not is_near
                print(f"  prompt {number}, token {at}: ours {row[at]}, theirs {top.indices[at, 0].item()}, logits {gap:.2e} apart"
                      f"{' (near-tie)' if is_near else '   <-- DIFFERENT'}")
        total = len(prompts) * arguments.tokens
        print(f"{len(prompts)} prompts x {arguments.tokens} tokens: {total - different - near} of {total} equal to transformers' argmax, "
              f"{near} near-ties, {different} different; closest two logits anywhere {closest:.1e}")
        for number in range(min(arguments.generate, len(prompts))):
            theirs = model.generate(torch.tensor([prompts[number]]), max_new_tokens=arguments.tokens,
                                    do_sample=False, attention_mask=torch.ones(1, len(prompts[number]), dtype=torch.long),
                                    pad_token_id=0, eos_token_id=-1)[0, len(prompts[number]):].tolist()
            first = next((i for i, (a, b) in enumerate(zip(theirs, ours[number])) if a != b), None)
            print(f"  prompt {number}, generate(): " + ("equal" if first is None else f"first difference at token {first}"))
            if first is not None and not near:
                different += 1
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    return 0 if different == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
