"""Packs and models on the hub, through its own client: a name becomes a local folder, a pack becomes a repository."""

from pathlib import Path

from megamini.errors import UserError
from megamini.files import is_missing_folder

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.md"]


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """`name` if it is a folder, else the folder that the hub's client has fetched (or had) of the repository `name`.

    Raises `UserError` for what is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: is a folder, which has no revision '{revision}'; leave it out")
        return folder
    if is_missing_folder(str(name)):
        raise UserError(f"{name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=_FILES))
    except Exception as error:  # whatever the client raises comes from the name, the network or the disk
        reason = str(error).strip().split("\n")[0].removeprefix("Got: ")
        raise UserError(f"{name}: no such folder here, and as a hub name it cannot be fetched: {reason}") from None


def upload(folder: Path, name: str, private: bool | None, revision: str | None, message: str, token: str | None) -> str:
    """Put the files of `folder` into the repository `name`, which is made if there is none; returns its address.

    Raises `UserError` where the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
    except Exception as error:  # as above; a login that is missing, too
        raise UserError(f"{name}: cannot be uploaded: {str(error).strip().split(chr(10))[0]}") from None
    return str(address)
