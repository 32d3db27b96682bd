"""Language models in a GGUF file, which transformers dequantises."""

from __future__ import annotations

import json
from pathlib import Path

from mmcomponents.checkpoints.checkpoint_error import CheckpointError


def gguf_file(path: Path) -> Path | None:
    """Returns the GGUF file that a path is, or the only one in a folder without a configuration; None if there is none.

    Raises:
        CheckpointError: A folder has several.
    """
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    found = [] if (path / "config.json").is_file() else sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise CheckpointError(f"{path} has several GGUF files, name one of them: {', '.join(map(str, found))}")
    return found[0] if found else None


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes the model and the tokenizer of a GGUF file as a transformers folder.

    Args:
        file: GGUF file.
        folder: Folder to write.

    Raises:
        CheckpointError: The package gguf is not installed, or transformers cannot read the file.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": file.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, trust_remote_code=False, **given)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **given)
    except ImportError as error:
        raise CheckpointError(f"{file}: reading a GGUF file needs the package gguf: pip install gguf") from error
    except Exception as error:  # transformers has no narrower type for files of other architectures
        raise CheckpointError(f"{file}: transformers cannot read it: {' '.join(str(error).split())[:300]}") from error
    folder.mkdir(parents=True, exist_ok=True)
    # `save_pretrained` rejects a model of a GGUF file although its weights are dequantised.
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / "model.safetensors")
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
