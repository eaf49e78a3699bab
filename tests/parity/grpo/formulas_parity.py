"""Advantages, the whole loss in its four aggregations, AdamW, schedules: ours against plain PyTorch of the formulas.

Formulas: group advantage of DeepSeekMath (arXiv 2402.03300, section 4.1) and Dr.GRPO (2503.20783); PPO clip with the
dual clip of 1912.09729; the aggregations as verl names them; optimizer and clipping from torch itself.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
program = pathlib.Path(parser.parse_args().build) / "bin" / "grpo_lines"
if not program.exists():
    print(f"SKIPPED: {program} is not built (ninja grpo_lines)")
    sys.exit(0)

torch.manual_seed(0)
failures = 0


def ask(lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(what, worst, limit, count):
    global failures
    ok = worst <= limit
    failures += not ok
    print(f"{'same' if ok else 'DIFFERENT'}: {what}: largest difference {worst:.2e} (limit {limit:.0e}) over {count} values")


def distance(a, b):
    """Largest difference relative to 1 + |expected|."""
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return ((a - b).abs() / (1 + b.abs())).max().item()


def advantages(rewards, group, kind):
    r = torch.tensor(rewards, dtype=torch.float64).view(-1, group)
    mean = r.mean(1, keepdim=True) if group > 1 else torch.zeros(len(r), 1, dtype=torch.float64)
    std = r.std(1, keepdim=True) if group > 1 else torch.ones(len(r), 1, dtype=torch.float64)
    a = r - mean
    return (a / (std + 1e-6) if kind == "std" else a).flatten()


lines, expected = [], []
for kind in ("std", "dr_grpo"):
    for group in (1, 2, 8):
        for rewards in ((torch.rand(4 * group) < 0.4).double(), torch.randn(4 * group).double(), torch.ones(4 * group)):
            lines.append({"op": "advantages", "rewards": rewards.tolist(), "group": group, "kind": kind})
            expected.append(advantages(rewards.tolist(), group, kind))
answers = ask(lines)
compare("group advantages", max(distance(a["advantages"], e) for a, e in zip(answers, expected)), 1e-12,
        sum(len(e) for e in expected))


def loss(line, dtype):
    """Loss, its parts, and the gradients to log-probs and entropy, from the formulas as the papers have them."""
    tensor = lambda key: torch.tensor(line[key], dtype=torch.float64).to(dtype)
    now, old, mask = tensor("logprobs").requires_grad_(True), tensor("old"), tensor("mask")
    a = tensor("advantages")[:, None]
    ratio = torch.exp(torch.clamp(now - old, -20, 20))
    plain, clipped = -a * ratio, -a * torch.clamp(ratio, 1 - line["low"], 1 + line["high"])
    higher = torch.maximum(plain, clipped)
    token = torch.where(a < 0, torch.minimum(higher, -a * line["c"]), higher)
    if "cap" in line:
        token = token * torch.clamp(torch.exp(torch.clamp(old - tensor("sampled"), -20, 20)), max=line["cap"])

    def together(values):
        if line["agg"] == "token-mean":
            return (values * mask).sum() / mask.sum()
        rows = (values * mask).sum(1)
        if line["agg"] == "seq-mean-token-mean":
            rows = rows / mask.sum(1)
        return rows.mean() / (line["horizon"] if line["agg"] == "seq-mean-token-sum-norm" else 1)

    policy = value = together(token)
    kl_loss, entropy = torch.zeros(()), None
    if line.get("kl_coef"):
        d = now - tensor("reference")
        kl_loss = together({"k1": lambda: d, "k2": lambda: d * d / 2, "k3": lambda: torch.exp(-d) - 1 + d}[line["kl_type"]]())
        value = value + line["kl_coef"] * kl_loss
    if line.get("entropy_coef"):
        entropy = tensor("entropy").requires_grad_(True)
        value = value - line["entropy_coef"] * together(entropy)
    value.backward()
    share = lambda x: ((x.double() * mask.double()).sum() / mask.double().sum()).item()
    return {"loss": value.item(), "policy": policy.item(), "kl_loss": kl_loss.item(), "gradient": now.grad.tolist(),
            "entropy_gradient": entropy.grad.tolist() if entropy is not None else [[0.0]],
            "shares": [share((old - now).detach()), share((clipped > plain)), share((higher > -a * line["c"]) & (a < 0))]}


lines = []
for aggregation in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
    for kl_type in (None, "k1", "k2", "k3"):
        for low, high in ((0.2, 0.2), (0.2, 0.28)):
            for spread in (0.01, 0.5, 3.0):
                for micro in (1, 3, 8):
                    rows, width = 8, 11
                    now = -torch.rand(rows, width) * 3
                    mask = torch.zeros(rows, width)
                    for r in range(rows):
                        mask[r, : 1 + int(torch.randint(width, ()))] = 1
                    near = lambda: (now + spread * torch.randn(rows, width)).tolist()
                    line = {"op": "loss", "logprobs": now.tolist(), "old": near(), "advantages": torch.randn(rows).tolist(),
                            "mask": mask.tolist(), "low": low, "high": high, "c": 3.0, "agg": aggregation, "horizon": 16.0,
                            "micro": micro}
                    if kl_type:
                        line |= {"kl_coef": 0.1, "kl_type": kl_type, "reference": near(), "entropy_coef": 0.01,
                                 "entropy": (3 * torch.rand(rows, width)).tolist(), "cap": 2.0, "sampled": near()}
                    lines.append(line)
keys = ("loss", "policy", "kl_loss", "gradient", "entropy_gradient")
for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32")):
    answers = ask([line | {"dtype": name} for line in lines])
    for key in keys:
        apart, reference_apart, size = 0.0, 0.0, 0.0
        for line, got in zip(lines, answers):
            exact = torch.tensor(loss(line, torch.float64)[key], dtype=torch.float64)
            single = torch.tensor(loss(line, torch.float32)[key], dtype=torch.float64)
            ours = torch.tensor(got.get(key, [[0.0]]), dtype=torch.float64)
            apart += (ours - exact).square().sum().item()
            reference_apart += (single - exact).square().sum().item()
            size += exact.square().sum().item()
        apart, reference_apart = (apart / size) ** 0.5, (reference_apart / size) ** 0.5
        if dtype == torch.float64:
            compare(f"float64 loss, 4 aggregations x (no KL, k1, k2, k3), weights, entropy: {key}", apart, 1e-10, len(lines))
        else:
            compare(f"float32, distance from float64 (torch's own float32: {reference_apart:.1e}): {key}", apart,
                    3 * reference_apart, len(lines))
    worst = max(distance([got["kl"], got["clipped"], got["clipped_lower"]], loss(line, torch.float64)["shares"])
                for line, got in zip(lines, answers))
    compare(f"{name}: KL and clip shares", worst, 5e-6, len(lines))

try:
    from transformers import (get_constant_schedule_with_warmup, get_cosine_with_min_lr_schedule_with_warmup,
                              get_linear_schedule_with_warmup)
    lines, expected = [], []
    for warmup in (0, 7):
        for schedule, ratio in (("constant", 0.0), ("linear", 0.0), ("cosine", 0.0), ("cosine", 0.1)):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
            if schedule == "constant":
                scheduler = get_constant_schedule_with_warmup(optimizer, warmup)
            elif schedule == "linear":
                scheduler = get_linear_schedule_with_warmup(optimizer, warmup, 40)
            else:
                scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, 40, min_lr_rate=ratio)
            rates = []
            for _ in range(40):
                rates.append(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            lines.append({"op": "schedule", "lr": 3e-4, "schedule": schedule, "warmup_steps": warmup, "min_lr_ratio": ratio,
                          "steps": 40})
            expected.append(rates)
    compare("learning-rate schedules of transformers", max(
        (torch.tensor(a["rates"], dtype=torch.float64) / 3e-4 - torch.tensor(e, dtype=torch.float64) / 3e-4).abs().max().item()
        for a, e in zip(ask(lines), expected)), 1e-12, 40 * len(lines))
except ImportError as error:
    print(f"transformers' schedules are left out: {error}")

lines, expected, norms = [], [], []
for weight_decay in (0.0, 0.1):
    for grad_clip in (0.0, 1.0):
        start = torch.randn(33)
        gradients = torch.randn(12, 33) * 0.7
        line = {"op": "adamw", "parameter": start.tolist(), "gradients": gradients.tolist(), "lr": 1e-2,
                "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": weight_decay, "grad_clip": grad_clip}
        lines.append(line)
        parameter = torch.nn.Parameter(torch.tensor(line["parameter"]))
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
        seen = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            seen.append(gradient.norm().item())
            if grad_clip > 0:
                torch.nn.utils.clip_grad_norm_([parameter], grad_clip)
            optimizer.step()
        expected.append(parameter.detach())
        norms.append(seen)
answers = ask(lines)
compare("12 steps of AdamW with clipping and decay, torch.optim.AdamW", max(
    distance(a["parameter"], e) for a, e in zip(answers, expected)), 1e-6, 4 * 33)
compare("gradient norms", max(distance(a["norms"], n) for a, n in zip(answers, norms)), 1e-6, 4 * 12)
sys.exit(1 if failures else 0)
