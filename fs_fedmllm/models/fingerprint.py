"""A fingerprint of the frozen base's weights: the same wherever the same checkpoint lies, and cheap.

Names, dtypes and shapes of every tensor in the checkpoint's files count, and :data:`SAMPLE` bytes at the beginning,
the middle and the end of each: a few MiB are read of a model of any size. Files and not tensors as loaded, so that
precision, quantisation and device make no difference; tensors and not whole files, so that paths, shards and the order
of tensors make none. Other weights of the same architecture (another revision, a fine-tuned copy) differ nearly
everywhere, so samples tell them apart. It is no proof against somebody who hides a change.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.untrusted import both_ends, open_regular, parse_json, read_json
from fs_fedmllm.models.loader import resolve_path

#: Bytes that are read of a tensor at each of three places.
SAMPLE = 4096
#: Longest header of a safetensors file, as the library has it.
LONGEST_HEADER = 100_000_000
#: Files of a checkpoint that say how a row is written and read; transformers loads them in this form or the other.
PROCESSOR = (
    "added_tokens.json", "merges.txt", "preprocessor_config.json", "processor_config.json", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "video_preprocessor_config.json", "vocab.json",
    "vocab.txt",
)  # fmt: skip
TEMPLATES = ("chat_template.jinja", "chat_template.json")
#: Keys of such files that ``save_pretrained`` writes of itself, and that make no row another.
SAVED = {
    "is_local", "local_files_only", "model_specific_special_tokens", "name_or_path", "processor_class",
    "special_tokens_map_file", "tokenizer_file", "transformers_version",
}  # fmt: skip
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def base_fingerprint(options: ModelOptions) -> str:
    """sha256 over the weights of a configured model.

    Args:
        options: ``model.fedmllm``; of a model of a hub, the copy on this machine is read and nothing is fetched.

    Returns:
        Hexadecimal; empty where there are no files to read.
    """
    found = _fingerprint(resolve_path(options.path), options.revision)
    if not found:  # a hub's files may be here in a moment
        _fingerprint.cache_clear()
    return found


def processor_files(options: ModelOptions) -> dict[str, str]:
    """What turns rows into tokens and images into pixels: chat template, tokenizer, processors' settings, their code.

    Args:
        options: ``model.fedmllm``; nothing is fetched.

    Returns:
        File's name -> sha256 of what it says: of JSON not the order of keys, nor what saving it again adds, and of a
        template not the kind of line ends. Of a folder, a chat template that is not there counts as an empty one,
        since one that is added would be taken. Of a hub's model, only what is here already is in it.
    """
    path = resolve_path(options.path)
    folder = _folder(path, options.revision)
    if folder is None:
        return {}
    found = dict.fromkeys(TEMPLATES, "") if folder == Path(path) else {}
    for file in [folder / name for name in (*TEMPLATES, *PROCESSOR)] + sorted(folder.glob("*.py")):
        if file.is_file():
            found[file.name] = hashlib.sha256(_says(file)).hexdigest()
    return found


def _says(file: Path) -> bytes:
    with open_regular(file) as stream:
        data = stream.read()
    if file.suffix == ".jinja":
        return data.replace(b"\r\n", b"\n")
    if file.suffix == ".json":
        with contextlib.suppress(ValueError):  # damaged: its bytes are what can be compared
            content = parse_json(data.decode("utf-8"))
            if isinstance(content, dict):
                content = {key: value for key, value in content.items() if key not in SAVED}
            return json.dumps(content, sort_keys=True).encode()
    return data


def _folder(path: str, revision: str) -> Path | None:
    folder = Path(path)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


@functools.cache
def _fingerprint(path: str, revision: str) -> str:
    folder = _folder(path, revision)
    if folder is None:
        return ""
    files = weight_files(folder)
    if not files:
        return ""
    if files[0].suffix != ".safetensors":
        return _of_files(files)
    parts = [part for file in files for part in _tensors(file)]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads from a folder; others, such as a second copy in one piece, do not count."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if (folder / _INDEX).is_file():
        try:
            return [folder / name for name in sorted(set(read_json(folder / _INDEX)["weight_map"].values()))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{folder / _INDEX} is damaged ({type(error).__name__}: {error}). Download it again."
            ) from error
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def tensor_entries(stream: Any) -> dict[str, Any]:
    """What a safetensors file's header says of each tensor; the stream then stands behind the header.

    Raises:
        ValueError: it is no such header.
    """
    length = int.from_bytes(stream.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    header = parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("no header")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _tensors(file: Path) -> list[str]:
    """One line for each tensor of a safetensors file.

    Raises:
        ModelError: its header is no safetensors header.
    """
    try:
        with open_regular(file) as stream:
            return _sampled(stream)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is damaged: it has no safetensors header ({type(error).__name__}). Download it again."
        ) from error


def _sampled(stream: Any) -> list[str]:
    entries, lines = tensor_entries(stream), []
    start = stream.tell()
    for name, entry in entries.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        digest = hashlib.sha256(f"{name}|{entry['dtype']}|{entry['shape']}|".encode())
        for place in sorted({begin, max(begin, (begin + end - SAMPLE) // 2), max(begin, end - SAMPLE)}):
            stream.seek(place)
            digest.update(stream.read(max(0, min(SAMPLE, end - place))))
        lines.append(digest.hexdigest())
    return lines


def _of_files(files: list[Path]) -> str:
    """Of a checkpoint without safetensors: names, sizes, and both ends of each file. Nothing is unpickled."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}|{file.stat().st_size}|".encode() + both_ends(file))
    return digest.hexdigest()
