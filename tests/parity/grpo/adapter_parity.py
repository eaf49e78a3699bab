"""A run's adapter opened by PEFT: all tensors found, and the same greedy answers as assay-train's own last evaluation.

Trains a few steps on a small random Qwen2 (made here, not quantized, so that transformers can compute the same), opens
adapter/ with peft, and lets transformers answer the test problems.
"""
import argparse
import json
import os
import pathlib
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
config = {
    "model": {"path": "model", "dtype": "fp32"}, "prompt": {"style": "plain", "text": "{question}?\n", "system": ""},
    "data": {"train": "train.jsonl", "test": "test.jsonl"}, "reward": {"scorer": "verl"},
    "lora": {"rank": 4, "alpha": 8.0, "targets": projections},
    "quant": {"format": "none", "mode": "", "injection_point": "both", "apply_during": "both", "hook": "pre",
              "blocking": "row", "tensor_scale": "tensor", "ste": True, "targets": projections, "exclude": []},
    "rollout": {"samples_per_prompt": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_prompt_length": 64,
                "max_response_length": 12, "batch_size": 0},
    "grpo": {"train_batch_size": 8, "gen_batch_size": 0, "mini_batch_size": 4, "micro_batch_size": 0, "filter_groups": False,
             "max_num_gen_batches": 5, "advantage": "std", "loss_agg": "token-mean", "clip_ratio_low": 0.2,
             "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "overlong_buffer": 0, "overlong_factor": 0.5},
    "optimizer": {"lr": 0.01, "warmup_steps": 0, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
                  "grad_clip": 1.0},
    "eval": {"test_freq": 20, "limit": 0, "batch_size": 0, "quant": "as_training"},
    "train": {"steps": 4, "seed": 1, "threads": 1, "device": "cpu"}, "trainer": {"kind": "embedded", "argv": []},
    "schedule": {"time_limit": 0.0, "stall_timeout": 600.0}}
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

different = {"base": 0, "adapted": 0}
for step, name in ((0, "base"), (4, "adapted")):
    ours = [json.loads(line) for line in (run / "eval" / f"step-{step:06d}.jsonl").read_text().splitlines()]
    tests = [json.loads(line) for line in (run / "test.jsonl").read_text().splitlines()]
    for problem, answer in zip(tests, ours):
        prompt = torch.tensor([tokenizer.encode(problem["question"] + "?\n").ids])
        with torch.no_grad():
            if name == "base":
                with adapted.disable_adapter():
                    out = adapted.generate(input_ids=prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
            else:
                out = adapted.generate(input_ids=prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(out[0, prompt.shape[1]:].tolist(), skip_special_tokens=True)
        different[name] += text != answer["completion"]
    print(f"{'DIFFERENT' if different[name] else 'same'}: greedy answers of transformers, {name} model: "
          f"{different[name]} of {len(tests)} differ")
sys.exit(0 if same_values and moved > 0 and not any(different.values()) else 1)
