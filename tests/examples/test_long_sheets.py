"""The data of the ablation of position encodings."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples/ablations/long_sheets.py"


def test_sheets_of_tests_have_as_many_digits_as_their_names_say(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("long_sheets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    long_sheets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(long_sheets)
    long_sheets.main(["--out", str(tmp_path), "--scale", "0.03"])
    for digits in (4, 16, 48):
        with tarfile.open(tmp_path / f"test{digits}-000000.tar") as shard:
            files = {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]
        record = json.loads(next(file for name, file in files.items() if name.endswith(".json")))
        picture = next(file for name, file in files.items() if name.endswith(".png"))
        assert len(record["digits"]) == digits
        assert Image.open(io.BytesIO(picture)).size == (28, 28 * digits)
        asked = dict(zip(record["kinds"], record["messages"][1::2], strict=True))
        ends = {"first": record["digits"][0], "last": record["digits"][-1]}
        assert {kind: int(message["content"]) for kind, message in asked.items()} == ends
