"""Log-probs and adapter gradients under W4A4: transformers and PEFT with hooks that quantize, beside ours.

The quantizers of the reference are the NumPy transcriptions that parity/quant holds against other people's code
(cases.py); weights, hooks, estimator and module names are as docs/quantization.md has them. As in update_parity.py ours
(float32) must be within 3 times of the reference's own float32 distance from its float64, norm-wise, here in the median over
sequences: an activation that lies next to a rounding boundary goes the other way when its last bit does, and moves a
sequence by a thousand times more than float32's roundings. The median sees what all sequences have in common, and the
number of sequences that are moved so, of all arms and formats together, is held against the reference's float32.

Two widths: adapters of narrow layers are merged into their weights (docs/decisions.md, 24), wide layers multiply codes and
block scales (25). With --smollm2 FOLDER the same on a real model, where most sequences are moved.
"""
import argparse
import copy
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
parser = argparse.ArgumentParser()
parser.add_argument("--build", type=pathlib.Path, required=True)
parser.add_argument("--smollm2", type=pathlib.Path, help="SmolLM2's folder: log-probs and gradients of it instead")
options = parser.parse_args()
program = options.build / "bin" / "grpo_lines"
if not program.exists():
    print(f"SKIPPED: {program} is not built (ninja grpo_lines)")
    sys.exit(0)
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "quant"))

import cases
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(2 if options.smollm2 else 1)  # small models gain nothing from a second one
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE_LAYER = r"^.*\.base_layer$"
TEMPERATURE, RANK, ALPHA = 0.8, 4, 8
failures = 0

ARMS = {  # E13's: what is quantized, on which side of a module, whether a gradient passes
    "a": dict(hook="post", blocking="row", ste=False, exclude=[]),
    "d": dict(hook="pre", blocking="row", ste=False, exclude=[]),
    "g": dict(hook="pre", blocking="column", ste=True, exclude=[BASE_LAYER]),
    "both, estimator": dict(hook="pre", blocking="row", ste=True, exclude=[]),
}
FORMATS = [dict(format="nvfp4", mode="te", tensor_scale="row"), dict(format="nvfp4", mode="te", tensor_scale="tensor"),
           dict(format="mxfp4", mode="floor", tensor_scale="tensor")]


def report(what, ok):
    global failures
    failures += not ok
    print(f"{'same' if ok else 'DIFFERENT'}: {what}", flush=True)


class Quantize(torch.autograd.Function):
    prompt_tokens = 0  # prompt and response are computed one after the other: two tensors, each with a scale of its own

    @staticmethod
    def forward(ctx, x, quant):
        ctx.passes = quant["ste"]
        rows = x.detach().to(torch.float32).reshape(-1, x.shape[-1]).numpy()
        parts = [cases.transcribed(quant["mode"], part, 1, quant["tensor_scale"])
                 for part in (rows[:Quantize.prompt_tokens], rows[Quantize.prompt_tokens:]) if len(part)]
        return torch.from_numpy(np.concatenate(parts)).to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        return (gradient if ctx.passes else None), None


def quantize_modules(model, quant):
    """In place: base weights, and a quantizer on each wrapper and, unless excluded, on each wrapped layer."""
    axis = 0 if quant["blocking"] == "column" else 1
    for name, wrapper in model.named_modules():
        if name.split(".")[-1] not in PROJECTIONS:
            continue
        base = wrapper.base_layer
        base.weight.data = torch.from_numpy(cases.transcribed(quant["mode"], base.weight.detach().numpy(), axis))
        for module in [wrapper] if quant["exclude"] else [wrapper, base]:
            if quant["hook"] == "pre":
                module.register_forward_pre_hook(lambda _, inputs: (Quantize.apply(inputs[0], quant),) + inputs[1:])
            else:
                module.register_forward_hook(lambda _, inputs, output: Quantize.apply(output, quant))
    return model


def far(values, exact):
    values, exact = (torch.cat([torch.as_tensor(x, dtype=torch.float64).flatten() for x in side]) for side in (values, exact))
    return ((values - exact).norm() / exact.norm()).item()


def reference(model, prompt, response):
    """Log-probs of the response, and the gradients of minus their mean; a tensor that gets none is left out."""
    Quantize.prompt_tokens = len(prompt)
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=torch.tensor([prompt + response[:-1]])).logits[0, len(prompt) - 1:] / TEMPERATURE
    logprobs = torch.log_softmax(logits, -1).gather(1, torch.tensor(response)[:, None])[:, 0]
    if logprobs.requires_grad:
        (-logprobs.mean()).backward()
    gradients = {name.replace(".default", ""): p.grad.double().clone() for name, p in model.named_parameters()
                 if "lora_" in name and p.grad is not None and p.grad.abs().max() > 0}
    return logprobs.detach().double(), gradients


def compare(name, base, folder, sequences, arms):
    """Writes base and a random adapter to the folder and compares them under each arm and format."""
    shutil.rmtree(folder, ignore_errors=True)
    if options.smollm2:
        folder.mkdir(parents=True)
        (folder / "model").symlink_to(options.smollm2.resolve())
    else:
        base.save_pretrained(folder / "model")
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.05 if not options.smollm2 else 0.002)
    model.save_pretrained(folder / "adapter")
    moved_of_all = [0, 0]
    for arm in arms:
        for form in FORMATS:
            quant = form | ARMS[arm]
            # One sequence a pass: with one scale a tensor, a value depends on what else is in the tensor.
            lines = [{"op": "update", "model": str(folder / "model"), "adapter": str(folder / "adapter"), "rank": RANK,
                      "alpha": ALPHA, "targets": PROJECTIONS, "prompts": [prompt], "responses": [response], "group": 1,
                      "advantages": [1.0], "old": None, "temperature": TEMPERATURE, "low": 0.2, "high": 0.28, "c": 3.0,
                      "agg": "token-mean", "horizon": 16.0, "quant": quant} for prompt, response in sequences]
            done = subprocess.run([program], input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True,
                                  text=True)
            if done.returncode:
                sys.exit(f"grpo_lines: {done.stderr}")
            ours = [json.loads(line) for line in done.stdout.splitlines()]
            single = quantize_modules(copy.deepcopy(model), quant)
            exact = copy.deepcopy(single).double()
            distances = {"log-probs": ([], []), "gradients": ([], [])}
            arrived = True
            for mine, sequence in zip(ours, sequences):
                e, s = reference(exact, *sequence), reference(single, *sequence)
                mine_gradients = {n: torch.tensor(g) for n, g in mine["gradients"].items() if g and any(g)}
                arrived &= mine_gradients.keys() == e[1].keys()
                distances["log-probs"][0].append(far(mine["logprobs"], [e[0]]))
                distances["log-probs"][1].append(far([s[0]], [e[0]]))
                names = sorted(e[1].keys() & mine_gradients.keys() & s[1].keys())
                if names:
                    distances["gradients"][0].append(far([mine_gradients[n] for n in names], [e[1][n] for n in names]))
                    distances["gradients"][1].append(far([s[1][n] for n in names], [e[1][n] for n in names]))
            what = f"{name}, {arm}, {form['format']} with a scale a {form['tensor_scale']}" if form["format"] == "nvfp4" else f"{name}, {arm}, mxfp4"
            report(f"{what}: gradients arrive in the same tensors, {len(e[1])} of {len(ours[0]['gradients'])}", arrived)
            for values, (mine, theirs) in distances.items():
                if not mine:
                    continue
                medians = [statistics.median(side) for side in (mine, theirs)]
                moved = [sum(d > 1e-5 for d in side) for side in (mine, theirs)]
                if values == "log-probs":
                    moved_of_all = [a + b for a, b in zip(moved_of_all, moved)]
                report(f"{what}: {values} of {len(mine)} sequences: ours {medians[0]:.2e} from float64, transformers' float32 "
                       f"{medians[1]:.2e} (medians); moved by a rounding that went the other way: {moved[0]} and {moved[1]}",
                       medians[0] <= 3 * medians[1])
    # Both sides have them by chance, a Poisson number each.
    report(f"{name}: sequences moved by such a rounding, all arms and formats: {moved_of_all[0]}, transformers' float32 {moved_of_all[1]}",
           moved_of_all[0] <= moved_of_all[1] + 3 * math.sqrt(sum(moved_of_all) + 1))


def random_sequences(count, vocabulary, longest):
    length = lambda: int(torch.randint(longest // 4, longest, ()))
    return [(torch.randint(1, vocabulary, (length(),)).tolist(), torch.randint(1, vocabulary, (length(),)).tolist()) for _ in range(count)]


torch.manual_seed(3)
if options.smollm2:
    config = AutoConfig.from_pretrained(options.smollm2)
    base = AutoModelForCausalLM.from_pretrained(options.smollm2, dtype=torch.float32).eval()
    compare("SmolLM2", base, options.build / "test-data" / "parity-w4a4-smollm2", random_sequences(12, config.vocab_size, 24), ["g"])
else:
    for name, width, inner in (("narrow", 64, 64), ("wide", 256, 384)):
        config = Qwen2Config(vocab_size=97, hidden_size=width, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=4,
                             num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=0,
                             initializer_range=0.6 / math.sqrt(width), tie_word_embeddings=True)
        compare(name, Qwen2ForCausalLM(config).eval(), options.build / "test-data" / f"parity-w4a4-{name}",
                random_sequences(24, 97, 12), ARMS)
sys.exit(1 if failures else 0)
