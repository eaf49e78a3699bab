"""The decoder against transformers, LoRA against peft: logits within 1e-4, log-probs, greedy tokens.

python tests/parity/model/decoder_parity.py --build BUILD_DIR

Random weights, several times larger than a fresh model's, so that attention and the MLP are far from linear.
"""
import argparse
import copy
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

try:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"SKIPPED: {error.name} is not installed in this Python")
    sys.exit(0)

BOUND = 1e-4
COMMON = dict(vocab_size=211, hidden_size=96, intermediate_size=240, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
MODELS = {
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True, rope_theta=1e6), {}),
    "qwen2-untied-mha": ("Qwen2", dict(tie_word_embeddings=False, num_key_value_heads=4, rms_norm_eps=1e-5), {}),
    "llama-untied": ("Llama", dict(tie_word_embeddings=False), {}),
    "llama-tied-head_dim": ("Llama", dict(tie_word_embeddings=True, head_dim=32, rope_theta=5e5), {}),
    "llama-sharded": ("Llama", dict(tie_word_embeddings=False), dict(max_shard_size="200KB")),
    "llama-fp16": ("Llama", dict(tie_word_embeddings=True), dict(dtype=torch.float16)),
    "llama-biases": ("Llama", dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True), {}),
    "llama-linear-rope": ("Llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0)), {}),
    "llama3-rope": ("Llama", dict(rope_theta=5e5, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), {}),
    "qwen3-tied": ("Qwen3", dict(tie_word_embeddings=True, head_dim=32, rope_theta=1e6), {}),
    "qwen3-untied-biases-sharded-bf16": ("Qwen3", dict(tie_word_embeddings=False, head_dim=16, attention_bias=True),
                                         dict(max_shard_size="100KB", dtype=torch.bfloat16)),
    "qwen2-bf16": ("Qwen2", dict(tie_word_embeddings=True), dict(dtype=torch.bfloat16)),
}


def make(name, folder):
    family, changes, save = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key:
                weight.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                weight.normal_(0, 0.3)
            else:
                weight.normal_(0, 0.08)
    dtype = save.get("dtype", torch.float32)
    model.to(dtype).save_pretrained(folder, **{k: v for k, v in save.items() if k != "dtype"})
    # Read back: .to(bfloat16) rounds the rotary frequencies too, which a folder does not hold.
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def sequences():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, COMMON["vocab_size"], (n,), generator=generator).tolist() for n in (1, 2, 17, 64, 300)]


class Program:
    def __init__(self, build):
        self.bin = pathlib.Path(build) / "bin"

    def logits(self, folder, ids, adapter=None, bf16=False):
        out = folder / "logits.out"
        command = [self.bin / "model_logits", folder, out] + ([adapter] if adapter else []) + (["--bf16"] if bf16 else [])
        subprocess.run(command, input="\n".join(map(json.dumps, ids)), text=True, check=True)
        tensors = load_file(out)
        return [tensors[f"logits.{i}"] for i in range(len(ids))]

    def lines(self, verb, folder, requests, adapter=None):
        command = [self.bin / "assay-train", verb, "--model", folder] + (["--adapter", adapter] if adapter else [])
        done = subprocess.run(command, input="\n".join(map(json.dumps, requests)) + "\n", text=True, check=True,
                              stdout=subprocess.PIPE)
        return [json.loads(line) for line in done.stdout.splitlines()]


def compare(program, folder, model, label, adapter=None):
    worst_logit = worst_logprob = largest = 0.0
    ids = sequences()
    with torch.no_grad():
        theirs = [model(torch.tensor([row])).logits[0].float() for row in ids]
    ours = program.logits(folder, ids, adapter)
    answers = program.lines("logprobs", folder, [{"ids": row} for row in ids], adapter)
    for row, a, b, answer in zip(ids, theirs, ours, answers):
        worst_logit = max(worst_logit, (a - b).abs().max().item())
        largest = max(largest, a.abs().max().item())
        chosen = torch.log_softmax(a, -1)[:-1].gather(1, torch.tensor(row[1:], dtype=torch.long)[:, None])[:, 0]
        assert len(answer["logprobs"]) == len(row) - 1
        if len(row) > 1:
            worst_logprob = max(worst_logprob, (chosen - torch.tensor(answer["logprobs"])).abs().max().item())
    good = worst_logit <= BOUND and worst_logprob <= BOUND
    print(f"{label}: logits differ by {worst_logit:.2e} at most (largest {largest:.1f}), log-probs by {worst_logprob:.2e}"
          f"{'' if good else '   <-- above ' + str(BOUND)}")
    return good


def relative(a, b):
    return (torch.cat([x.double().flatten() for x in a]) - torch.cat([y.double().flatten() for y in b])).norm().item() / \
        torch.cat([y.double().flatten() for y in b]).norm().item()


def compare_bf16(program, folder, model, label, adapter=None):
    """Arithmetic in bf16: as far from the model in float64 as transformers' own bf16 is, and no farther. The weights of
    both are rounded; peft keeps the adapter in float32, as we do."""
    ids = sequences()
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for key, weight in rounded.named_parameters():
            if "lora_" not in key:
                weight.copy_(weight.bfloat16().float())
    exact = copy.deepcopy(rounded).double()
    half = copy.deepcopy(rounded)
    for key, module in half.named_modules():
        if "lora_" not in key and "rotary" not in key:
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.bfloat16()
    with torch.no_grad():
        wanted = [exact(torch.tensor([row])).logits[0] for row in ids]
        theirs = [half(torch.tensor([row])).logits[0] for row in ids]
    ours = program.logits(folder, ids, adapter, bf16=True)
    assert all(t.dtype == torch.bfloat16 for t in theirs)
    mine, others = relative(ours, wanted), relative(theirs, wanted)
    good = mine <= others and mine > 0.1 * others
    print(f"{label}: bf16 logits are {mine:.2e} from float64's, transformers' bf16 {others:.2e}"
          f"{'' if good else '   <-- wanted: above a tenth of it, and no farther'}")
    return good


def greedy(program, folder, model, label):
    tokens = 24
    good = True
    for row in sequences()[1:4]:
        with torch.no_grad():
            theirs = model.generate(torch.tensor([row]), max_new_tokens=tokens, do_sample=False,
                                    attention_mask=torch.ones(1, len(row), dtype=torch.long), pad_token_id=0)
        wanted = theirs[0, len(row):].tolist()
        got = program.lines("generate", folder, [{"ids": row, "max_new_tokens": tokens}])[0]
        if got.get("ids") != wanted:
            print(f"{label}: greedy tokens differ: {got} instead of {wanted}")
            good = False
    print(f"{label}: greedy tokens {'equal' if good else 'DIFFER'}")
    return good


def byte_tokenizer(folder):
    """The verb `generate` asks for a tokenizer.json, though ids alone go in here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:COMMON["vocab_size"]]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    arguments = parser.parse_args()
    program = Program(arguments.build)
    for name in ("model_logits", "assay-train"):
        if not (program.bin / name).exists():
            print(f"{program.bin / name} is not built")
            return 1
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    root = pathlib.Path(arguments.build) / "parity" / "model"
    shutil.rmtree(root, ignore_errors=True)
    good = True
    for name in MODELS:
        folder = root / name
        model = make(name, folder)
        good &= compare(program, folder, model, name)
        good &= compare_bf16(program, folder, model, name)
        byte_tokenizer(folder)
        good &= greedy(program, folder, model, name)
        lora = peft.LoraConfig(r=8, lora_alpha=20, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                                                   "up_proj", "down_proj"])
        wrapped = peft.get_peft_model(model, lora)
        with torch.no_grad():
            for key, weight in wrapped.named_parameters():
                if "lora_B" in key:
                    weight.normal_(0, 0.05)
        wrapped.save_pretrained(folder / "adapter")
        good &= compare(program, folder, wrapped.eval(), f"{name} + LoRA (peft {peft.__version__})", folder / "adapter")
        good &= compare_bf16(program, folder, wrapped.eval(), f"{name} + LoRA", folder / "adapter")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {'equal' if good else 'DIFFERENT'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
