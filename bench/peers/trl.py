"""One GRPO step by TRL and by assay-train, and sampling by transformers' generate: the same model, the same prompts, as
many samples, tokens and updates, fp32, nothing quantized, two threads each, one after the other in one run; and the
ratios. Then our step under W4A4, weights and activations of all projections quantized in sampling and training as e13g has
it, beside our own fp32 step, by turns: a workload's `rounds` runs of each. --ours leaves TRL out.

  tools/parity-setup.sh peers
  .deps/peers/bin/python bench/peers/trl.py --build build/default [--workload tiny] [--steps 3] [--threads 2]

| workload | model | prompts x samples x new tokens | updates a step |
| tiny  | random, Qwen2: width 96, 4 layers, vocabulary 512          | 64 of 40 tokens x 8 x 26   | 4 |
| small | random, Qwen2: width 288, 6 layers, vocabulary 8192        | 8 of 128 tokens x 8 x 128  | 4 |
| smol  | SmolLM2-135M-Instruct (`make smollm2`)                     | 4 of 100 tokens x 8 x 128  | 4 |

Hardly a sequence ends early: the end of text is a token that is drawn once in a vocabulary's size (random models) or next
to never (SmolLM2's), the same on both sides. Every sample has an advantage: both sides score by turns 1, 2, 0, 1, …, ours by a
program. (A group whose samples all score alike costs us less than TRL.) Each figure is the median of
--steps steps behind a first one that is not counted. Peak memory is that of the whole process, for TRL in a child of its
own.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# This file is called as what it imports.
sys.path = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != pathlib.Path(__file__).resolve().parent]

WORKLOADS = {
    "tiny": dict(prompts=64, length=40, samples=8, new=26, updates=4, lora=16, rounds=8,
                 shape=dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                            intermediate_size=240, vocab_size=512)),
    "small": dict(prompts=8, length=128, samples=8, new=128, updates=4, lora=16, rounds=3,
                  shape=dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
                             intermediate_size=768, vocab_size=8192)),
    "smol": dict(prompts=4, length=100, samples=8, new=128, updates=4, lora=16, rounds=1, shape=None),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ENDS = {"tiny": 1, "small": 1, "smol": 16}  # the end of text; 16: a token of SmolLM2's that its training left aside


def bytes_to_letters():
    """GPT-2's table: each byte as a character that is not blank."""
    shown = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, spare = {}, 0
    for byte in range(256):
        table[byte] = chr(byte) if byte in shown else chr(256 + spare)
        spare += byte not in shown
    return table


def make_random_model(folder, shape, end):
    """A Qwen2 folder: weights wide enough that a token's distribution is not flat, one token a byte."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    torch.manual_seed(0)
    config = Qwen2Config(**shape, max_position_embeddings=1024, rope_theta=10000.0, tie_word_embeddings=True,
                         eos_token_id=end, bos_token_id=None, pad_token_id=0)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    letters = bytes_to_letters()
    vocabulary = {letters[byte]: byte for byte in range(256)}
    for spare in range(256, shape["vocab_size"]):  # every id that can be sampled has a text
        vocabulary[f"ĠĊ{spare}"] = spare
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []}}))


def link_model(folder, source, end):
    """The real model, but for the ids that end a text."""
    for file in source.iterdir():
        if file.suffix != ".json" or file.name.startswith("tokenizer"):
            (folder / file.name).symlink_to(file)
    for name in ("config.json", "generation_config.json"):
        if (source / name).exists():
            config = json.loads((source / name).read_text())
            config["eos_token_id"] = end
            (folder / name).write_text(json.dumps(config))


def make_questions(workload, folder):
    """Texts that are prompts of exactly `length` tokens. Words of one token each, put together until the length fits."""
    import random
    from transformers import PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    draw = random.Random(1)
    words = list("abcdefghijklmnopqrstuvwxyz") if workload["shape"] else [
        " cat", " dog", " tree", " house", " water", " small", " red", " blue", " run", " green", " apple", " book"]
    questions = []
    while len(questions) < 8 * workload["prompts"]:
        text = "".join(draw.choice(words) for _ in range(workload["length"]))
        if len(tokenizer(text)["input_ids"]) == workload["length"]:
            questions.append(text)
    return questions


W4A4 = {"nvfp4": dict(format="nvfp4", mode="te"),
        # One scale a token: sampling and training cannot differ, so that old log-probs need no pass of their own.
        "nvfp4, scale a row": dict(format="nvfp4", mode="te", tensor_scale="row"),
        "mxfp4": dict(format="mxfp4", mode="floor")}


def config_json(workload, threads, steps, model, quant=None):
    """assay's config.json: the defaults as docs/series.md has them (a test keeps the two equal), and the workload's."""
    defaults = {}
    for key, default in re.findall(r"^\| `(\w+\.[\w.]+)` \|.*?\| (`[^`]*`|`` .* ``|all seven) \|", (ROOT / "docs/series.md").read_text(), re.M):
        section, name = key.split(".", 1)
        defaults.setdefault(section, {})[name] = TARGETS if "all seven" in default else json.loads(default.strip("` "))
    sets = {
        "model": {"path": str(model)}, "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "prompt": {"text": "{question}"}, "lora": {"rank": workload["lora"], "alpha": 32.0},
        "rollout": {"samples_per_prompt": workload["samples"], "max_prompt_length": workload["length"],
                    "max_response_length": workload["new"]},
        "grpo": {"train_batch_size": workload["prompts"], "mini_batch_size": workload["prompts"] // workload["updates"]},
        "reward": {"scorer": "command", "argv": ["awk", "{ print NR % 3 }"]}, "optimizer": {"lr": 1e-5}, "eval": {"test_freq": 10**9, "limit": 1},
        "train": {"steps": steps + 1, "threads": threads}, "checkpoint": {"every": 0},
    }
    if quant:
        sets["quant"] = dict(W4A4[quant], blocking="column", exclude=["^.*\\.base_layer$"])
    for section, keys in sets.items():
        for key, value in keys.items():
            assert key in defaults[section], (section, key)
            defaults[section][key] = value
    return json.dumps(defaults)


def run_ours(workload, threads, steps, model, questions, quant=None):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows = [json.dumps({"question": q, "answer": "#### 77777"}) for q in questions]
        (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
        (folder / "test.jsonl").write_text(rows[0] + "\n")
        (folder / "config.json").write_text(config_json(workload, threads, steps, model, quant))
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        subprocess.run([ASSAY_TRAIN, "run", str(folder)], check=True, stdout=subprocess.DEVNULL, env=environment)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counted = [m["metrics"] for m in metrics if m["step"] > 1 and "timing_s/step" in m["metrics"]]
    rows = workload["prompts"] * workload["samples"]
    for m in counted:
        assert m["response_length/mean"] > 0.8 * workload["new"], "too many sequences end early to compare"
        assert m["actor/updates"] == workload["updates"]
        assert m["rollout/groups_with_spread"] == workload["prompts"]
    return {"step": statistics.median(m["timing_s/step"] for m in counted),
            "update": statistics.median(m["timing_s/update_actor"] for m in counted),
            "tokens_per_s": statistics.median(rows * m["response_length/mean"] / m["timing_s/gen"] for m in counted),
            "memory_gb": counted[-1]["perf/max_memory_rss_gb"]}


def run_trl(name, threads, steps, model, questions):
    """In a process of its own. One step is one generation and `updates` optimizer steps."""
    workload = WORKLOADS[name]
    import torch
    torch.set_num_threads(threads)
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ENDS[name])  # where TRL takes the end of text from
    tokenizer.padding_side = "left"
    rows = workload["prompts"] * workload["samples"]

    # Sampling alone, all sequences at once, as the trainer asks for it.
    network = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    ids = tokenizer(questions[:workload["prompts"]], return_tensors="pt")["input_ids"].repeat_interleave(workload["samples"], 0)
    rates = []
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            out = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=workload["new"], do_sample=True,
                                   top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0)
            seconds = time.perf_counter() - start
            drawn = out[:, workload["length"]:] == ENDS[name]
            lengths = torch.where(drawn.any(1), drawn.int().argmax(1) + 1, out.shape[1] - workload["length"])
            rates.append(lengths.sum().item() / seconds)

    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            ends.append(time.perf_counter())

    draws = iter(range(10**9))
    with tempfile.TemporaryDirectory() as output:
        arguments = GRPOConfig(
            output_dir=output, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
            per_device_train_batch_size=rows // workload["updates"], gradient_accumulation_steps=1,
            steps_per_generation=workload["updates"], num_iterations=1, num_generations=workload["samples"],
            max_completion_length=workload["new"], temperature=1.0, top_p=1.0, top_k=0, beta=0.0, learning_rate=1e-5,
            lr_scheduler_type="constant", max_steps=workload["updates"] * (steps + 1), logging_steps=10**9,
            save_strategy="no", report_to="none", disable_tqdm=True, seed=1)
        trainer = GRPOTrainer(
            model=network, args=arguments, processing_class=tokenizer,
            reward_funcs=lambda completions, **kwargs: [float(next(draws) % 3) for _ in completions],
            train_dataset=Dataset.from_dict({"prompt": questions}),
            peft_config=LoraConfig(r=workload["lora"], lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS,
                                   task_type="CAUSAL_LM"),
            callbacks=[Clock()])
        trainer.train()
    marks = ends[workload["updates"] - 1::workload["updates"]]
    # Not ru_maxrss, which begins with the parent's.
    memory = int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 2**20
    return {"step": statistics.median(b - a for a, b in zip(marks, marks[1:])), "tokens_per_s": max(rates),
            "memory_gb": memory}


def trl_in_child(name, options, model, questions):
    request = json.dumps({"workload": name, "model": str(model), "questions": questions})
    child = subprocess.run([sys.executable, __file__, "--trl", request, "--steps", str(options.steps), "--threads",
                            str(options.threads)], capture_output=True, text=True,
                           env=dict(os.environ, OMP_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="false"))
    results = [line[7:] for line in child.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        sys.exit(f"{name}: TRL failed\n{child.stderr[-4000:]}")
    return json.loads(results[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/default")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smollm2", type=pathlib.Path, default=ROOT / ".cache/smollm2-135m-instruct")
    parser.add_argument("--ours", action="store_true", help="W4A4 beside fp32 only")
    parser.add_argument("--trl", type=json.loads, help=argparse.SUPPRESS)  # the child process
    options = parser.parse_args()
    if options.trl:
        given = options.trl
        result = run_trl(given["workload"], options.threads, options.steps, pathlib.Path(given["model"]),
                         given["questions"])
        print("RESULT " + json.dumps(result))
        return
    try:
        import peft, transformers, trl  # noqa: E401
    except ImportError as error:
        print(f"SKIPPED: {error}; tools/parity-setup.sh peers")
        return
    global ASSAY_TRAIN
    ASSAY_TRAIN = str(options.build.resolve() / "bin/assay-train")
    print(f"trl {trl.__version__}, transformers {transformers.__version__}, {options.threads} threads, median of "
          f"{options.steps} steps", flush=True)
    for name in options.workload or WORKLOADS:
        workload = WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder)
            if workload["shape"]:
                make_random_model(model, workload["shape"], ENDS[name])
            elif options.smollm2.is_dir():
                link_model(model, options.smollm2.resolve(), ENDS[name])
            else:
                print(f"{name}: SKIPPED: {options.smollm2} is not there (make smollm2)")
                continue
            questions = make_questions(workload, model)
            def ours(quant=None):
                return run_ours(workload, options.threads, options.steps, model, questions, quant)

            if not options.ours:
                plain = ours()
                theirs = trl_in_child(name, options, model, questions)
                print(f"{name:6} TRL: step {theirs['step']:.2f} s, ours {plain['step']:.2f} s, {theirs['step'] / plain['step']:.1f} times; generate "
                      f"{theirs['tokens_per_s']:.0f} tokens/s, ours {plain['tokens_per_s']:.0f}, {plain['tokens_per_s'] / theirs['tokens_per_s']:.1f} "
                      f"times; memory {theirs['memory_gb']:.2f} GB, ours {plain['memory_gb']:.2f}, "
                      f"{100 * plain['memory_gb'] / theirs['memory_gb']:.0f} %", flush=True)
            sides = {quant: [] for quant in (None, *W4A4)}
            for turn in range(workload["rounds"]):  # forwards and backwards: what the machine does meanwhile falls on all
                for quant in list(sides)[::1 if turn % 2 == 0 else -1]:
                    sides[quant].append(ours(quant))
            figures = {quant: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for quant, runs in sides.items()}
            fastest = {quant: min(run["step"] for run in runs) for quant, runs in sides.items()}
            for quant in W4A4:
                mine, fp32 = figures[quant], figures[None]
                print(f"{name:6} W4A4 {quant}: step {mine['step']:.3f} s, fp32 {fp32['step']:.3f} s, share {mine['step'] / fp32['step']:.2f}; fastest of "
                      f"{workload['rounds']} {fastest[quant]:.3f} and {fastest[None]:.3f} s, {fastest[quant] / fastest[None]:.2f}; sampling "
                      f"{mine['tokens_per_s']:.0f} tokens/s, fp32 {fp32['tokens_per_s']:.0f}; memory {mine['memory_gb']:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
