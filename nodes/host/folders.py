"""Where the host keeps things: embeddings, this pack's models, input and output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import folder_paths

from ...attractor.errors import AttractorError

MODELS = "attractor"


def register() -> None:
    """Make models/attractor known to the host, and to a user's extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(MODELS, str(Path(folder_paths.models_dir) / MODELS))


def model_folders() -> list[Path]:
    """Folders in which this pack's own models may lie, the default one first."""
    register()
    return [Path(p) for p in folder_paths.get_folder_paths(MODELS)]


def find_model(name: str) -> Path:
    """The file or folder `name` in the first models folder that has it, else where it should be."""
    folders = model_folders()
    return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)


def embeddings_folder() -> Path:
    """Where the host looks for embedding:name first."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])


def embedding_names() -> list[str]:
    """All embedding files that the host knows."""
    return folder_paths.get_filename_list("embeddings")


def embedding_path(name: str) -> Path:
    """The path of an embedding file that a graph names. Raises AttractorError when there is none of that name."""
    _refuse_escape(name, "concept")
    path = folder_paths.get_full_path("embeddings", name)
    if path is None:
        raise AttractorError(f"{name}: no such file in {embeddings_folder()}. Refresh the page (R) and choose again.")
    return Path(path)


def subject_folder(text: str) -> Path:
    """The folder a user typed: a full path, or a folder inside the host's input folder.

    Raises AttractorError for an empty name, a NUL, or a relative path that leaves the input folder.
    """
    text = text.strip().strip('"')
    if not text:
        raise AttractorError("folder is empty: give a folder of photos, or connect an IMAGE.")
    if "\0" in text:
        raise AttractorError("folder holds a NUL character, which no path has. Type it again.")
    path = Path(text).expanduser()
    if path.is_absolute():
        return path
    _refuse_escape(text, "folder")
    return Path(folder_paths.get_input_directory()) / path


def input_folder() -> Path:
    """The host's input folder."""
    return Path(folder_paths.get_input_directory())


def checkpoint(name: str) -> Path:
    """A checkpoint that the host knows by this name. Raises AttractorError when there is none, or it is a pickle."""
    path = folder_paths.get_full_path("checkpoints", name) if name in folder_paths.get_filename_list(
        "checkpoints") else None  # fmt: skip
    if path is None:
        there = ", ".join(folder_paths.get_filename_list("checkpoints")[:8]) or "none"
        raise AttractorError(f"model {name!r}: no such file in models/checkpoints; there are {there}, and demo.")
    if not name.lower().endswith(".safetensors"):
        raise AttractorError(f"model {name!r}: only .safetensors checkpoints are loaded; others can run code.")
    return Path(path)


def input_file(text: str, what: str) -> Path:
    """A file of the input folder that a graph names. Raises AttractorError for an empty name or one that leads out."""
    if not text.strip():
        raise AttractorError(f"{what} is empty: give a file in ComfyUI's input folder.")
    _refuse_escape(text.strip(), what)
    return Path(folder_paths.get_input_directory()) / text.strip()


def report_folder(name: str) -> Path:
    """output/attractor/<name>."""
    return Path(folder_paths.get_output_directory()) / "attractor" / name


def new_pictures_folder(name: str) -> Path:
    """output/attractor/<name>/pictures_0001, or with the next number that no folder has yet; it is made at once, so
    that nobody else takes it. Raises AttractorError where it cannot be.
    """
    within = report_folder(name)
    taken = [int(p.name[9:]) for p in within.glob("pictures_*") if p.name[9:].isdecimal()]
    number = max(taken, default=0) + 1
    while True:
        folder = within / f"pictures_{number:04d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            said = f"{folder}: cannot be made ({error.strerror}). Check the folder's permissions and free space."
            raise AttractorError(said) from error


@contextmanager
def kept_if_filled(folder: Path | None) -> Iterator[None]:
    """An empty folder is taken away where what was to fill it raises."""
    try:
        yield
    except BaseException:
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()
        raise


def studies_folder() -> Path:
    """user/__attractor/studies, where blind studies and their votes lie: the host gives out no files from there, while
    whoever knows a name can have any file of its output folder.
    """
    return Path(folder_paths.get_user_directory()) / "__attractor" / "studies"


def _refuse_escape(name: str, what: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]:
        raise AttractorError(
            f"{what} {name!r} leads out of its folder ('..', a drive or a NUL). Give a plain name inside it."
        )
