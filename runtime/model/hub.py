"""Models by their names on the Hugging Face hub: downloaded once, then read from the cache.

Only commands that say so ask the hub; loaders (loading.py) read folders alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import CheckpointError
from runtime.model.folder import HUB_ID, WANTED
from runtime.settings import shown

_WANTED_FILES = ("*.json", "*.jinja", "*.safetensors")
_OTHER_FORMS = ("*/*", "consolidated*")
"""Of the same weights, as some repositories hold them: in folders of their own, or in one file besides the parts."""


def model_folder(model: Path) -> Path:
    """Return the folder of a model: the path itself, or where a model of that name on the hub lies once it is downloaded.

    What was downloaded before is taken from the cache where the hub cannot be asked. Whatever cannot be a name on the hub is
    returned as it is, for the loader to say what is wrong with it.

    Raises:
        CheckpointError: there is neither such a folder nor such a model, or the hub cannot be reached and the cache lacks it.
    """
    name = os.fspath(model)
    if model.exists() or not HUB_ID.fullmatch(name):
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED_FILES), ignore_patterns=list(_OTHER_FORMS)))
    except HFValidationError:
        return model
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"there is no folder {name}, and the Hugging Face hub refuses a model of that name: {shown(reason, 160)}; "
            "a gated one needs `hf auth login`"
        ) from None
    except Exception as error:  # the library, its cache and the network raise whatever they meet
        raise CheckpointError(
            f"there is no folder {name}, and a model of that name is neither in the Hugging Face cache nor can be downloaded "
            f"({type(error).__name__}); go online once, or give {WANTED}"
        ) from None
