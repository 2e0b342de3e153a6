"""Random LoRA adapters laid out as PEFT saves them, and what they do to a model, worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PREFIX = "base_model.model."


def adapter(
    folder: Path, base: Path, modules: list[str], *, rank: int = 4, dtype: torch.dtype = torch.float32, **settings: Any
) -> Path:
    """Save a random adapter for `modules` of the model in `base`, laid out as PEFT does."""
    folder.mkdir()
    model = opened(base)
    torch.manual_seed(7)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in modules:
            r = settings.get("rank_pattern", {}).get(name.rpartition(".")[2], rank)
            tensors[f"{PREFIX}{name}.lora_A.weight"] = (torch.randn(r, module.in_features) * 0.1).to(dtype)
            tensors[f"{PREFIX}{name}.lora_B.weight"] = (torch.randn(module.out_features, r) * 0.1).to(dtype)
    assert tensors
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "bias": "none", "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **settings}))
    return folder


def opened(base: Path) -> Any:
    """What PEFT would be given: a model that writes, or an encoder."""
    config = transformers.AutoConfig.from_pretrained(base)
    writes = config.architectures[0].endswith("ForCausalLM")
    auto = transformers.AutoModelForCausalLM if writes else transformers.AutoModel
    return auto.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def merged(base: Path, folder: Path) -> Any:
    """The base with `scale * B @ A` added to its weights."""
    model = opened(base)
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name, a in tensors.items():
            if ".lora_A." in name:
                module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
                b = tensors[name.replace(".lora_A.", ".lora_B.")]
                scale = expected_scale(settings, module.rpartition(".")[2], a.shape[0])
                model.get_submodule(module).weight += scale * b.float() @ a.float()
    return model


def merged_logits(base: Path, folder: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(merged(base, folder)(torch.tensor([list(ids)])).logits[0].numpy(), dtype=np.float32)


def expected_scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = settings.get("alpha_pattern", {}).get(module, settings["lora_alpha"])
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)
