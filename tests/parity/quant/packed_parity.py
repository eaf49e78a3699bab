"""Packed models, there and back, against compressed-tensors and transformers.

  python tests/parity/quant/packed_parity.py --build BUILD_DIR

On small random Llama models, bf16 and fp32, one file and sharded:
- a model packed by `assay-train quantize --pack` is loaded by transformers (dequantized at load, and compressed, then
  decompressed by ModelCompressor) and has the values that assay reads from it, bit for bit;
- a model packed by compressed-tensors is read by assay with the values that compressed-tensors reads, bit for bit;
- in the modes of compressed-tensors the files hold the same bytes: codes, block scales, global scales.
compressed-tensors rounds what it dequantizes to bf16, whatever the model's dtype; assay's fp32 values are rounded the same.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys

try:
    import torch
    import transformers
    import compressed_tensors
    from compressed_tensors.compressors import BaseCompressor, ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM
except ImportError as error:
    print(f"SKIPPED: {error}")
    sys.exit(0)

import logging
import warnings
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
transformers.utils.logging.disable_progress_bar()

VERSIONS = f"compressed-tensors {compressed_tensors.__version__}, transformers {transformers.__version__}"
PRESETS = {"nvfp4": "NVFP4A16", "mxfp4": "MXFP4A16"}
# The modes whose files compressed-tensors itself would write, and those whose values its formula gives exactly.
ITS_OWN = {("nvfp4", torch.float32): "ct", ("nvfp4", torch.bfloat16): "ct_bf16",
           ("mxfp4", torch.float32): "even", ("mxfp4", torch.bfloat16): "even"}
EXACT = {"ct", "ct_bf16", "torchao_one_level", "floor", "even", "rceil", "ceil"}


def llama(dtype, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=192, intermediate_size=320, num_hidden_layers=3, num_attention_heads=6,
                         num_key_value_heads=2, vocab_size=160, tie_word_embeddings=seed % 2 == 0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for index, (name, weight) in enumerate(model.named_parameters()):
            if "proj" in name:
                weight.mul_(2.0 ** (index % 23 - 11))
                weight[0, :16] = 0          # a block of zeros
                weight[1, :32] *= 1e-4      # a scale that underflows
                weight[2, 3] *= 50          # an outlier
                weight[3] = weight[3].bfloat16()
    return model.to(dtype)


def bits(t):
    return t.view(torch.int16 if t.element_size() == 2 else torch.int32)


def differing(a, b):
    """Elements whose bits differ, of bf16 tensors."""
    assert a.shape == b.shape and a.dtype == b.dtype == torch.bfloat16, (a.shape, b.shape, a.dtype, b.dtype)
    return int((bits(a) != bits(b)).sum())


class Assay:
    def __init__(self, build, folder):
        self.train = pathlib.Path(build) / "bin" / "assay-train"
        self.cli = pathlib.Path(build) / "bin" / "packed_cli"
        self.folder = folder

    def missing(self):
        return [str(p) for p in (self.train, self.cli) if not p.exists()]

    def quantize(self, source, target, *arguments):
        shutil.rmtree(target, ignore_errors=True)
        done = subprocess.run([self.train, "quantize", source, target, "--json", *arguments], check=True,
                              capture_output=True, text=True)
        return json.loads(done.stdout)

    def modes(self):
        help = subprocess.run([self.train, "quantize", "--help"], check=True, capture_output=True, text=True).stdout
        line = next(l for l in help.splitlines() if "nvfp4: " in l and "mxfp4: " in l)
        nvfp4, mxfp4 = line.split("nvfp4: ")[1].split(" (default")[0].split("; mxfp4: ")
        return [("nvfp4", m) for m in nvfp4.split(", ")] + [("mxfp4", m) for m in mxfp4.split(", ")]

    def dequantized(self, model, what):
        target = self.folder / "dequantized.safetensors"
        subprocess.run([self.cli, model, target, what], check=True)
        return load_file(target)


def decompressed(folder):
    """What transformers loads: dequantized at load, and compressed and then decompressed by compressed-tensors."""
    at_load = AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    model = AutoModelForCausalLM.from_pretrained(folder)
    names = sorted(n for n, m in model.named_modules() if hasattr(m, "weight_packed"))
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    ModelCompressor.from_compression_config(CompressedTensorsConfig(**config)).decompress_model(model)
    if at_load.dtype == torch.bfloat16:  # an fp32 model cannot run there: decompress_model leaves its weights in bf16
        with torch.no_grad():
            ids = torch.arange(12).reshape(1, 12)
            assert torch.equal(model(ids).logits, at_load(ids).logits)
    return names, at_load.state_dict(), model.state_dict()


def ours_there(assay, source, folder, dtype, format, mode):
    report = assay.quantize(source, folder, "--format", format, "--mode", mode, "--pack")
    assert report["layout"] == "compressed-tensors", report["layout"]
    names, at_load, later = decompressed(folder)
    assert names == [t["name"].removesuffix(".weight") for t in report["tensors"]], "other modules are quantized there"
    checkpoint, by_mode = assay.dequantized(folder, "checkpoint"), assay.dequantized(folder, "mode")
    fake = folder.parent / "fake"
    assay.quantize(source, fake, "--format", format, "--mode", mode)
    fakes = {}
    for file in fake.glob("*.safetensors"):
        fakes.update(load_file(file))
    wrong = shifted = elements = 0
    for name, values in checkpoint.items():
        elements += values.numel()
        for theirs in (at_load[name], later[name]):
            wrong += differing(theirs.bfloat16(), values.bfloat16())
            assert theirs.dtype == torch.bfloat16 or torch.equal(theirs.bfloat16().float(), theirs)
        # What assay makes of its own file is what fake quantization gave, in the model's dtype.
        wrong += int((bits(by_mode[name].to(dtype)) != bits(fakes[name])).sum())
        shifted += differing(by_mode[name].bfloat16(), values.bfloat16())
    if mode in EXACT:
        wrong += shifted
    return elements, wrong, shifted


def theirs_here(assay, model, folder, dtype, format):
    config = QuantizationConfig(config_groups={PRESETS[format]: ["Linear"]}, ignore=["lm_head"])
    apply_quantization_config(model, config, show_progress=False)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is None:
            continue
        weight, args = module.weight.data, module.quantization_scheme.weights
        above = None
        if format == "nvfp4":
            above = generate_gparam(weight.amin(), weight.amax())
            module.weight_global_scale.data = above
        blocks = weight.unflatten(-1, (-1, args.group_size))
        scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args, global_scale=above)
        module.weight_scale.data = scale.to(module.weight_scale.dtype)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    names, at_load, later = decompressed(folder)
    ours = assay.dequantized(folder, "checkpoint")
    assert sorted(ours) == [n + ".weight" for n in names]
    wrong = elements = 0
    for name, values in ours.items():
        elements += values.numel()
        wrong += differing(at_load[name].bfloat16(), values.bfloat16()) + differing(later[name].bfloat16(), values.bfloat16())
    return elements, wrong


def same_bytes(theirs, ours):
    """Bytes of packed tensors that differ, and how many there are. A zero's sign: compressed-tensors drops that of -0."""
    a, b = {}, {}
    for folder, tensors in ((theirs, a), (ours, b)):
        for file in folder.glob("*.safetensors"):
            tensors.update({k: v for k, v in load_file(file).items() if ".weight_" in k})
    assert sorted(a) == sorted(b), sorted(set(a) ^ set(b))
    wrong = total = 0
    for name in a:
        x, y = (t.contiguous().view(torch.uint8).flatten() for t in (a[name], b[name]))
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        wrong += int((x != y).sum())
        total += x.numel()
    return total, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    options = parser.parse_args()
    folder = pathlib.Path(options.build) / "test-data" / "packed-parity"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assay = Assay(options.build, folder)
    if assay.missing():
        print(f"SKIPPED: not built: {', '.join(assay.missing())}")
        return 0
    torch.set_num_threads(1)
    total = 0
    for seed, dtype in enumerate((torch.bfloat16, torch.float32)):
        word = str(dtype).removeprefix("torch.")
        source, sharded = folder / "plain", folder / "sharded"
        for target, size in ((source, "1GB"), (sharded, "300KB")):
            shutil.rmtree(target, ignore_errors=True)
            llama(dtype, seed).save_pretrained(target, max_shard_size=size)
        assert not (source / "model.safetensors.index.json").exists() and (sharded / "model.safetensors.index.json").exists()
        for format, mode in assay.modes():
            elements, wrong, shifted = ours_there(assay, source, folder / "ours", dtype, format, mode)
            total += wrong
            print(f"{word} {format} {mode}: packed here, loaded there: {elements} values, {wrong} differing bits"
                  + ("" if mode in EXACT else f"; {shifted} values differ in bf16 from the fake-quantized ones"))
        elements, wrong, _ = ours_there(assay, sharded, folder / "ours", dtype, "nvfp4", "te")
        total += wrong
        print(f"{word} nvfp4 te, sharded: {elements} values, {wrong} differing bits")
        for format in PRESETS:
            theirs = folder / "theirs"
            elements, wrong = theirs_here(assay, llama(dtype, seed), theirs, dtype, format)
            total += wrong
            print(f"{word} {format}: packed there, loaded here: {elements} values, {wrong} differing bits")
            mode = ITS_OWN[format, dtype]
            if (format, mode) not in assay.modes():
                print(f"SKIPPED: {word} {format} byte by byte: there is no mode {mode}")
                continue
            assay.quantize(source, folder / "ours", "--format", format, "--mode", mode, "--pack")
            count, wrong = same_bytes(theirs, folder / "ours")
            total += wrong
            print(f"{word} {format} {mode}: {count} bytes of codes and scales against compressed-tensors' own: {wrong} differ")
    print(f"against {VERSIONS}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
