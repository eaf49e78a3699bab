"""A run's adapter opened by PEFT: all tensors found, and the same greedy answers as assay-train's own last evaluation.
Then `assay-train merge`, both forms: the merged folder in transformers and the --peft folder in PEFT give logits within
1e-4 of ours and the same answers; the base sharded and stored in bf16 as well.

Trains a few steps on a small random Qwen2 (made here, not quantized, so that transformers can compute the same), opens
adapter/ with peft, and lets transformers answer the test problems.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
build = pathlib.Path(parser.parse_args().build)
program = build / "bin" / "assay-train"
if not program.exists():
    print(f"SKIPPED: {program} is not built (ninja assay-train)")
    sys.exit(0)

import torch
from peft import PeftModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM



def default_config():
    """Every key with its default, from the key table of docs/series.md, which a unit test holds against the reader."""
    config = {}
    text = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "series.md").read_text()
    for section, name, initial in re.findall(r"^\| `(\w+)\.([\w.]+)` \| .*? \| `(.*?)` \| ", text, re.M):
        value = projections if initial == "all seven" else json.loads(initial)
        config.setdefault(section, {})[name] = value
    return config


torch.manual_seed(0)
torch.set_num_threads(1)
run = build / "test-data" / "parity-adapter"
shutil.rmtree(run, ignore_errors=True)
(run / "model").mkdir(parents=True)

words = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *"0123456789", "Ġ", "Ċ", "#", ".", "?"]
tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
tokenizer.add_tokens([AddedToken(f"#### {n}", normalized=False) for n in (1, 2)])
tokenizer.save(str(run / "model" / "tokenizer.json"))

model = Qwen2ForCausalLM(Qwen2Config(
    vocab_size=48, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=0, bos_token_id=0, initializer_range=0.15))
model.save_pretrained(run / "model")

for name, first in (("train", 0), ("test", 100)):
    problems = [{"question": f"how many {chr(97 + n % 26)}{chr(97 + n // 26 % 26)}", "answer": f"so\n#### {1 + n % 2}"}
                for n in range(first, first + 40)]
    (run / f"{name}.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
config = default_config()
for key, value in {
        "model.path": "model", "prompt.text": "{question}?\n", "data.train": "train.jsonl", "data.test": "test.jsonl",
        "lora.rank": 4, "lora.alpha": 8.0, "rollout.max_prompt_length": 64, "rollout.max_response_length": 12,
        "grpo.train_batch_size": 8, "grpo.mini_batch_size": 4, "optimizer.lr": 0.01, "train.steps": 4}.items():
    section, name = key.split(".")
    assert name in config[section], key
    config[section][name] = value
(run / "config.json").write_text(json.dumps(config, sort_keys=True))
subprocess.run([program, "run", run], check=True, stdout=subprocess.DEVNULL)

from safetensors.torch import load_file

adapted = PeftModel.from_pretrained(model, run / "adapter").eval()
saved = load_file(run / "adapter" / "adapter_model.safetensors")
loaded = {name.replace(".default", ""): tensor for name, tensor in adapted.state_dict().items() if "lora_" in name}
same_names = set(saved) == set(loaded)
same_values = same_names and all(torch.equal(saved[name], loaded[name]) for name in saved)
moved = sum(tensor.abs().sum().item() for name, tensor in saved.items() if "lora_B" in name)
print(f"{'same' if same_values else 'DIFFERENT'}: {len(saved)} adapter tensors as PEFT loads them; B's magnitudes add up to {moved:.2f}")

for form, more in (("merged", []), ("peft", ["--peft"])):
    subprocess.run([program, "merge", run, run / form, *more], check=True, stdout=subprocess.DEVNULL)
merged = Qwen2ForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).eval()
tests = [json.loads(line) for line in (run / "test.jsonl").read_text().splitlines()]
prompts = [tokenizer.encode(problem["question"] + "?\n").ids for problem in tests]
good = True


def our_logits(model, adapter):
    out = run / "logits.safetensors"
    subprocess.run([build / "bin" / "model_logits", model, out, *([adapter] if adapter else [])], check=True, text=True,
                   input="\n".join(map(json.dumps, prompts)))
    tensors = load_file(out)
    return [tensors[f"logits.{i}"] for i in range(len(prompts))]


def compare(label, theirs, ours, bound=1e-4):
    global good
    with torch.no_grad():
        worst = max((theirs(torch.tensor([p])).logits[0].float() - o).abs().max().item() for p, o in zip(prompts, ours))
    good &= worst <= bound
    print(f"{'same' if worst <= bound else 'DIFFERENT'}: {label}: logits differ by {worst:.2e} at most (bound {bound})")


ours = our_logits(run / "model", run / "adapter")
compare("merged folder in transformers, against base + adapter here", merged, ours)
fresh_base = Qwen2ForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
compare("--peft folder in PEFT, against base + adapter here", PeftModel.from_pretrained(fresh_base, run / "peft").eval(), ours)
compare("merged folder in transformers, against the merged folder here", merged, our_logits(run / "merged", None))
half = run / "half"
Qwen2ForCausalLM.from_pretrained(run / "model", dtype=torch.bfloat16).save_pretrained(half, max_shard_size="30KB")
shutil.copy(run / "model" / "tokenizer.json", half)
subprocess.run([program, "merge", run, run / "merged-half", "--base", half], check=True, stdout=subprocess.DEVNULL)
compare(f"bf16 base in {len(list(half.glob('*.safetensors')))} shards, merged in fp32",
        Qwen2ForCausalLM.from_pretrained(run / "merged-half", dtype=torch.float32).eval(), our_logits(half, run / "adapter"))

different = {"base": 0, "adapted": 0, "merged": 0}
for step, name in ((0, "base"), (4, "adapted"), (4, "merged")):
    ours = [json.loads(line) for line in (run / "eval" / f"step-{step:06d}.jsonl").read_text().splitlines()]
    for ids, answer in zip(prompts, ours):
        prompt = torch.tensor([ids])
        choose = dict(input_ids=prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
        with torch.no_grad():
            if name == "base":
                with adapted.disable_adapter():
                    out = adapted.generate(**choose)
            else:
                out = (merged if name == "merged" else adapted).generate(**choose)
        text = tokenizer.decode(out[0, prompt.shape[1]:].tolist(), skip_special_tokens=True)
        different[name] += text != answer["completion"]
    print(f"{'DIFFERENT' if different[name] else 'same'}: greedy answers of transformers, {name} model: "
          f"{different[name]} of {len(tests)} differ")
sys.exit(0 if same_values and moved > 0 and good and not any(different.values()) else 1)
