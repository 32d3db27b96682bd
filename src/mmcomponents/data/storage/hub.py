"""Models of the Hugging Face hub, by name: `org/name` or `org/name@revision`, wherever a folder is named.

huggingface_hub downloads into its cache, with its token (`HF_TOKEN`) and its offline mode (`HF_HUB_OFFLINE=1`). Only
safetensors, JSON and files of tokenizers are fetched: no pickles and no code.
"""

from __future__ import annotations

from pathlib import Path

from mmcomponents.model_files import HUB_NAME, TOKENIZER_FILES

_MODEL_FILES = ("*.safetensors", "*.json", *TOKENIZER_FILES)
_TEXT_FILES = ("*.json", *TOKENIZER_FILES)


class HubError(ValueError):
    """Raised when a model of the hub cannot be had; the message is one line."""


def is_hub_name(path: str | Path) -> bool:
    """Returns whether a path names a model of the hub: of the form `org/name`, and nothing of the local disk.

    A path in a folder that exists is a local one, so that a misspelt folder causes no request.
    """
    text = str(path)
    return bool(HUB_NAME.fullmatch(text)) and not Path(text).exists() and not Path(text).parent.is_dir()


def local_folder(path: str | Path, *, weights: bool = True) -> Path:
    """Returns a folder on the local disk: the path itself, or the snapshot of a model of the hub, downloaded if needed.

    Args:
        path: A folder, or the name of a model of the hub.
        weights: Whether the weights are needed; a tokenizer needs none.

    Raises:
        HubError: There is neither such a folder nor such a model, it cannot be downloaded, or it has no weights as
            safetensors, where they are needed.
    """
    if not is_hub_name(path):
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoRevisionError

    found = HUB_NAME.fullmatch(str(path))
    assert found is not None
    patterns = list(_MODEL_FILES if weights else _TEXT_FILES)
    try:
        folder = Path(snapshot_download(found["repo"], revision=found["revision"], allow_patterns=patterns))
    except NoRevisionError as error:
        raise HubError(f"the model {found['repo']} of the hub has no revision {found['revision']}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason = "the hub has no model of this name that your token may read"
        raise HubError(f"there is no folder {path}, and {reason}") from error
    except LocalEntryNotFoundError as error:
        reason = "the model of the hub of this name is not in the cache and cannot be downloaded"
        raise HubError(f"there is no folder {path}, and {reason}: {_first_line(error)}") from error
    except OSError as error:  # of the connection or the disk
        raise HubError(f"the model {path} of the hub cannot be downloaded: {_first_line(error)}") from error
    if weights and next(folder.rglob("*.safetensors"), None) is None:
        raise HubError(
            f"the model {path} of the hub has no weights as safetensors"
            + (", or only its other files are in the cache" if _is_offline() else "")
        )
    return folder


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
