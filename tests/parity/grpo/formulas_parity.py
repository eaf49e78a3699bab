"""Advantages, clipped loss and its four aggregations, AdamW: ours against plain PyTorch of the published formulas.

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


def loss(line):
    now = torch.tensor(line["logprobs"], dtype=torch.float64, requires_grad=True)
    old, mask = torch.tensor(line["old"], dtype=torch.float64), torch.tensor(line["mask"], dtype=torch.float64)
    a = torch.tensor(line["advantages"], dtype=torch.float64)[:, None]
    ratio = torch.exp(torch.clamp(now - old, -20, 20))
    plain, clipped = -a * ratio, -a * torch.clamp(ratio, 1 - line["low"], 1 + line["high"])
    higher = torch.maximum(plain, clipped)
    token = torch.where(a < 0, torch.minimum(higher, -a * line["c"]), higher)
    if line["agg"] == "token-mean":
        value = (token * mask).sum() / mask.sum()
    else:
        rows = (token * mask).sum(1)
        if line["agg"] == "seq-mean-token-mean":
            rows = rows / mask.sum(1)
        value = rows.mean()
        if line["agg"] == "seq-mean-token-sum-norm":
            value = value / line["horizon"]
    value.backward()
    share = lambda x: ((x * mask).sum() / mask.sum()).item()
    return value.item(), now.grad, share(old - now), share((clipped > plain).double()), share(
        ((higher > -a * line["c"]) & (a < 0)).double())


lines = []
for aggregation in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
    for low, high in ((0.2, 0.2), (0.2, 0.28)):
        for spread in (0.01, 0.5, 3.0):
            for micro in (1, 3, 8):
                rows, width = 8, 11
                now = -torch.rand(rows, width) * 3
                mask = torch.zeros(rows, width)
                for r in range(rows):
                    mask[r, : 1 + int(torch.randint(width, ()))] = 1
                lines.append({"op": "loss", "logprobs": now.tolist(), "old": (now + spread * torch.randn(rows, width)).tolist(),
                              "advantages": torch.randn(rows).tolist(), "mask": mask.tolist(), "low": low, "high": high,
                              "c": 3.0, "agg": aggregation, "horizon": 16.0, "micro": micro})
answers = ask(lines)
worst = {"loss": 0.0, "gradient": 0.0, "kl and clip shares": 0.0}
for line, got in zip(lines, answers):
    value, gradient, kl, clipped, lower = loss(line)
    worst["loss"] = max(worst["loss"], distance(got["loss"], value))
    worst["gradient"] = max(worst["gradient"], distance(got["gradient"], gradient))
    worst["kl and clip shares"] = max(worst["kl and clip shares"],
                                      distance([got["kl"], got["clipped"], got["clipped_lower"]], [kl, clipped, lower]))
for what, difference in worst.items():
    compare(f"policy loss, 4 aggregations, micro-batches of 1, 3, 8 rows: {what}", difference, 5e-6, len(lines))

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
