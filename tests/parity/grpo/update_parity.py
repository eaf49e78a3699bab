"""One GRPO update from the same rollouts: log-probs, entropy, loss and every adapter's gradient.

Reference: transformers and PEFT in float64, the loss from the formulas; where trl is installed, its own _compute_loss as
well, for the aggregations and the KL form that it has. Ours (float32) must be within 3 times of transformers' own float32
distance from that, norm-wise: || ours - float64 || / || float64 ||, over all adapters of a case.

The losses of one model and one batch are nearly one number: how far it is off by chance of the roundings differs tenfold from
one random model to the next, on either side. So losses are compared over eight models of each family together: the root of
the mean square of the relative distances.
"""
import argparse
import collections
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

os.environ["HF_HUB_OFFLINE"] = "1"
parser = argparse.ArgumentParser()
parser.add_argument("--build", required=True)
build = pathlib.Path(parser.parse_args().build)
program = build / "bin" / "grpo_lines"
if not program.exists():
    print(f"SKIPPED: {program} is not built (ninja grpo_lines)")
    sys.exit(0)

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(1)
failures = 0
projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
shape = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=0, initializer_range=0.15)
temperature, group, horizon = 0.8, 4, 16.0


def report(what, ours, reference, count):
    global failures
    ok = ours <= 3 * reference
    failures += not ok
    print(f"{'same' if ok else 'DIFFERENT'}: {what}: ours {ours:.2e} from float64, transformers' float32 {reference:.2e} ({count} values)")


def far(values, exact):
    values, exact = (torch.cat([torch.as_tensor(x, dtype=torch.float64).flatten() for x in side]) for side in (values, exact))
    return ((values - exact).norm() / exact.norm()).item()


def scored(model, prompts, responses, dtype):
    """Log-probs and entropies [B, R], row by row, so that nothing is padded."""
    width = max(map(len, responses))
    logprobs, entropies = [], []
    for i, response in enumerate(responses):
        prompt = prompts[i // group]
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1].to(dtype) / temperature
        all_logprobs = torch.log_softmax(logits, -1)
        pad = (0, width - len(response))
        logprobs.append(torch.nn.functional.pad(all_logprobs.gather(1, torch.tensor(response)[:, None])[:, 0], pad))
        entropies.append(torch.nn.functional.pad(-(all_logprobs.exp() * all_logprobs).sum(-1), pad))
    return torch.stack(logprobs), torch.stack(entropies)


def total(line, now, entropy, reference, mask, dtype):
    tensor = lambda key: torch.tensor(line[key], dtype=torch.float64).to(dtype)
    old, a = tensor("old"), tensor("advantages")[:, None]
    ratio = torch.exp(now - old)
    clipped = -a * torch.clamp(ratio, 1 - line["low"], 1 + line["high"])
    higher = torch.maximum(-a * ratio, clipped)
    token = torch.where(a < 0, torch.minimum(higher, -a * line["c"]), higher)
    if "cap" in line:
        token = token * torch.clamp(torch.exp(old - tensor("sampled")), max=line["cap"])

    def together(values):
        if line["agg"] == "token-mean":
            return (values * mask).sum() / mask.sum()
        rows = (values * mask).sum(1)
        if line["agg"] == "seq-mean-token-mean":
            rows = rows / mask.sum(1)
        return rows.mean() / (horizon if line["agg"] == "seq-mean-token-sum-norm" else 1)

    value = together(token)
    if line.get("kl_coef"):
        d = now - reference
        value = value + line["kl_coef"] * together(
            {"k1": lambda: d, "k2": lambda: d * d / 2, "k3": lambda: torch.exp(-d) - 1 + d}[line["kl_type"]]())
    return value - line.get("entropy_coef", 0.0) * together(entropy)


def trl_loss(line, now, entropy, reference, mask):
    """trl's own function on these log-probs; None where it has no such aggregation or KL form."""
    names = {"token-mean": "bnpo", "seq-mean-token-mean": "grpo", "seq-mean-token-sum-norm": "dr_grpo"}
    if line["agg"] not in names or line.get("kl_type", "k3") != "k3":
        return None
    from trl import GRPOTrainer
    same = lambda x: x
    me = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (now, entropy, None), aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=line.get("kl_coef", 0.0), loss_type=names[line["agg"]], epsilon_low=line["low"], epsilon_high=line["high"],
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        use_vllm="cap" in line, vllm_importance_sampling_correction=True, current_gradient_accumulation_steps=1,
        model=types.SimpleNamespace(training=True), max_completion_length=horizon, _entropy_bonus_enabled=False,
        use_adaptive_entropy=False, _metrics={"train": collections.defaultdict(list)},
        accelerator=types.SimpleNamespace(gather=same, gather_for_metrics=same, reduce=lambda x, reduction: x, num_processes=1,
                                          sync_gradients=True))
    old = torch.tensor(line["old"], dtype=torch.float64)
    empty = torch.zeros(len(now), 1, dtype=torch.long)
    inputs = {"prompt_ids": empty, "prompt_mask": empty, "completion_ids": torch.zeros_like(mask, dtype=torch.long),
              "completion_mask": mask, "advantages": torch.tensor(line["advantages"], dtype=torch.float64),
              "old_per_token_logps": old, "ref_per_token_logps": reference}
    if "cap" in line:
        sampled = torch.tensor(line["sampled"], dtype=torch.float64)
        inputs["importance_sampling_ratio"] = torch.exp(old - sampled).clamp(max=line["cap"])
    return GRPOTrainer._compute_loss(me, None, inputs)


def cases(old, sampled, advantages):
    for aggregation in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
        for kl_type in (None, "k1", "k2", "k3"):
            line = {"old": old, "advantages": advantages, "low": 0.2, "high": 0.28, "c": 1e6, "agg": aggregation,
                    "horizon": horizon}
            if kl_type:
                line |= {"kl_coef": 0.1, "kl_type": kl_type, "cap": 2.0, "sampled": sampled}
            yield f"{aggregation}, {kl_type or 'no KL'}", line
            if kl_type == "k3":
                yield f"{aggregation}, {kl_type}, entropy bonus", line | {"entropy_coef": 0.05}


FAMILIES = {"qwen2": (Qwen2Config(**shape, tie_word_embeddings=True), Qwen2ForCausalLM),
            "llama": (LlamaConfig(**shape, tie_word_embeddings=False), LlamaForCausalLM)}
SEEDS = range(3, 11)  # all of them for the losses, the first for everything else


losses = {family: ([], []) for family in FAMILIES}  # relative distances of ours and of transformers' float32
for family, seed in [(family, seed) for family in FAMILIES for seed in SEEDS]:
    config, kind = FAMILIES[family]
    torch.manual_seed(seed)
    folder = build / "test-data" / f"parity-update-{family}"
    shutil.rmtree(folder, ignore_errors=True)
    base = kind(config).eval()
    base.save_pretrained(folder / "model")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=projections, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(folder / "adapter")
    models = {torch.float32: model, torch.float64: copy.deepcopy(model).double()}
    short = lambda name: name.replace(".default", "")

    prompts = [torch.randint(1, 97, (n,)).tolist() for n in (5, 9, 13)]
    responses = [torch.randint(1, 97, (int(n),)).tolist() for n in torch.randint(1, 17, (len(prompts) * group,))]
    width = max(map(len, responses))
    mask = torch.tensor([[1.0] * len(r) + [0.0] * (width - len(r)) for r in responses], dtype=torch.float64)
    exact, single = models[torch.float64], models[torch.float32]
    with torch.no_grad():
        own, own_entropy = scored(exact, prompts, responses, torch.float64)
        # float32 numbers, so that all three read the same ones.
        near = lambda size: ((own + size * torch.randn_like(own)) * mask).float().tolist()
        old, sampled, advantages = near(0.15), near(0.3), torch.randn(len(responses)).float().tolist()

    lines, answers_of = [], {}
    everything = list(cases(old, sampled, advantages))
    for _, line in everything:
        lines.append({"op": "update", "model": str(folder / "model"), "adapter": str(folder / "adapter"), "rank": 4, "alpha": 8,
                      "targets": projections, "prompts": prompts, "responses": responses, "group": group,
                      "temperature": temperature, "low": 0.2, "high": 0.28, "c": 1e6} | line)
    done = subprocess.run([program], input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True,
                          check=True)
    ours = [json.loads(line) for line in done.stdout.splitlines()]

    results = {}
    for dtype, model in models.items():
        with torch.no_grad(), model.disable_adapter():
            reference, _ = scored(model, prompts, responses, dtype)
        results[dtype] = []
        for _, line in everything:
            model.zero_grad()
            now, entropy = scored(model, prompts, responses, dtype)
            value = total(line, now, entropy, reference, mask.to(dtype), dtype)
            gradients = {}
            if seed == SEEDS[0]:
                value.backward()
                gradients = {short(n): p.grad.double().clone() for n, p in model.named_parameters() if "lora_" in n}
            results[dtype].append((value.item(), gradients, now.detach().double() * mask, entropy.detach().double() * mask))
    e, s = results[torch.float64], results[torch.float32]
    for side, values in zip(losses[family], ([o["loss"] for o in ours], [x[0] for x in s])):
        side.append(far([values], [[x[0] for x in e]]))
    if seed == SEEDS[-1]:
        together = [(sum(x * x for x in side) / len(side)) ** 0.5 for side in losses[family]]
        report(f"{family}: loss of {len(everything)} cases, {len(SEEDS)} models", *together, len(everything) * len(SEEDS))
    if seed != SEEDS[0]:
        continue
    report(f"{family}: log-probs", far([ours[0]["logprobs"]], [e[0][2]]), far([s[0][2]], [e[0][2]]), int(mask.sum()))
    report(f"{family}: entropy", far([ours[0]["entropy"]], [e[0][3]]), far([s[0][3]], [e[0][3]]), int(mask.sum()))
    for i, (what, _) in enumerate(everything):
        names = sorted(e[i][1])
        assert names == sorted(ours[i]["gradients"]), "adapter tensors have other names"
        take = lambda gradients: [gradients[name] for name in names]
        report(f"{family}: gradients of {len(names)} adapter tensors, {what}",
               far(take(ours[i]["gradients"]), take(e[i][1])), far(take(s[i][1]), take(e[i][1])),
               sum(g.numel() for g in take(e[i][1])))

    try:
        import trl  # noqa: F401
    except ImportError as error:
        print(f"trl is left out: {error}")
        continue
    with torch.no_grad(), exact.disable_adapter():
        reference, _ = scored(exact, prompts, responses, torch.float64)
    worst, compared = 0.0, 0
    for i, (what, line) in enumerate(everything):
        if line.get("entropy_coef"):
            continue  # trl's bonus is a mean over tokens whatever the aggregation
        exact.zero_grad()
        now, entropy = scored(exact, prompts, responses, torch.float64)
        value = trl_loss(line, now, entropy.detach(), reference, mask)
        if value is None:
            continue
        value.backward()
        gradients = {short(n): p.grad for n, p in exact.named_parameters() if "lora_" in n}
        worst = max(worst, abs(value.item() - e[i][0]) / abs(e[i][0]), far([gradients[n] for n in sorted(gradients)],
                                                                          [e[i][1][n] for n in sorted(gradients)]))
        compared += 1
    ok = worst < 1e-10 and compared == 6
    failures += not ok
    print(f"{'same' if ok else 'DIFFERENT'}: {family}: trl {trl.__version__} _compute_loss in float64, {compared} cases, loss and "
          f"gradients: largest distance from the float64 reference above {worst:.1e} (limit 1e-10)")
sys.exit(1 if failures else 0)
