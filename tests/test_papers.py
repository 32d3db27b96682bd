"""Files of parts name the paper that they implement, by its arXiv id.

Files are read from the source. Those in `WITHOUT` implement no paper: contracts, wrappers of other libraries, helpers.
`REFERENCE_CODE` has the repositories of the papers' authors, and the files that name them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mmcomponents"
FOLDERS = ("positions", "vision", "fusers", "mergers", "projectors", "embedders", "backbones", "heads", "objectives")
ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")

WITHOUT = {
    "backbones": "transformers_cache transformers_lm transformers_rotary",
    "embedders": "stored_text text_context text_encoder token",
    "generation": "answer_files conversation found_boxes generate_text inputs past prompt_answers prompt_parts"
    " text_stream top_boxes uniform_draws",
    "heads": "action_heads conv_autoencoder lm_head",
    "objectives": "answers frozen_model picture_fields",
    "positions": "frequencies",
    "projectors": "module_projector",
    "vision": "block_encoder open_clip_vision timm_vision transformers_vision vq_tokenizer wrapped_tower",
}

REFERENCE_CODE = {
    "OpenGVLab/InternVL": "vision/intern_vit mergers/pixel_unshuffle projectors/mlp_projector objectives/next_token"
    " objectives/weighting objectives/mpo",
    "OpenGVLab/V2PE": "positions/v2pe",
    "OpenGVLab/PIIP": "vision/piip vision/interaction projectors/two_map fusers/merges",
    "OpenGVLab/HoVLE": "vision/patch_stem embedders/holistic embedders/patch_holistic",
    "yuecao0119/MMFuser": "fusers/mmfuser",
    "CQU-ADHRI-Lab/MI-DETR": "fusers/ufi heads/inquiries heads/detection_head",
    "CurryX-001/LangBridge": "projectors/langbridge",
    "RoboDita/Dita": "mergers/qformer heads/denoising_heads objectives/diffusion embedders/action_embedder"
    " generation/action_samplers",
    "rongyaofang/GoT": "heads/condition objectives/picture_diffusion embedders/query_embedder"
    " generation/guided_generation generation/picture_guidance",
}


@pytest.mark.parametrize("folder", [*FOLDERS, "generation"])
def test_parts_name_their_paper(folder: str) -> None:
    files = [file for file in (SOURCE / folder).rglob("*.py") if file.name not in ("__init__.py", "base.py")]
    assert files
    silent = {file.stem for file in files if not ARXIV.search(file.read_text(encoding="utf-8"))}
    assert silent == set(WITHOUT.get(folder, "").split())


@pytest.mark.parametrize("code", REFERENCE_CODE)
def test_systems_name_their_reference_code(code: str) -> None:
    files = REFERENCE_CODE[code].split()
    assert [name for name in files if code not in (SOURCE / f"{name}.py").read_text(encoding="utf-8")] == []
