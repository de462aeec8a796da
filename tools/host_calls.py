"""What the pack takes from ComfyUI, in one place: ``python -m limelight.tools.host_calls`` writes it to host_calls.txt.

The names are read from the source of the shipped code (imports, and the attribute chains that start at an imported
name), so the list cannot lag behind it. `missing` looks all of them up in a host, and whether its functions still take
the arguments that they are called with; `HANDLES` has what the pack uses of objects that the host hands it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .in_process import ROOT

LISTING = Path(__file__).with_suffix(".txt")
SHIPPED = ("__init__.py", "nodes", "guidance", "models")
# The host's top-level modules that packs see; `utils` and `app` are its own business.
MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
MODULES |= {"node_helpers", "nodes", "server"}

# What the code asks a newer host for before it uses it.
OPTIONAL = {"comfy.model_management.in_training"}

# Methods and attributes of the host's objects, which source alone does not tell from any other object's.
HANDLES = {
    "comfy.model_patcher.ModelPatcher": (
        "add_wrapper_with_key remove_wrappers_with_key clone get_model_object set_model_sampler_post_cfg_function "
        "set_additional_models get_additional_models_with_key model model_options load_device current_hooks "
        "apply_hooks prepare_hook_patches_current_keyframe"
    ),
    "comfy.model_base.BaseModel": (
        "diffusion_model model_sampling model_config latent_format process_latent_in concat_keys current_patcher"
    ),
    "comfy.samplers.CFGGuider": "conds inner_model model_options",
    "comfy.patcher_extension.WrapperExecutor": "class_obj original",
    "comfy.controlnet.ControlNet": "control_model previous_controlnet set_previous_controlnet preprocess_image",
    "comfy.sd.CLIP": "clone tokenizer cond_stage_model tokenize encode_from_tokens encode_from_tokens_scheduled",
    "comfy.sd.VAE": "encode patcher first_stage_model process_output vae_dtype spacial_compression_encode",
    "comfy.model_sampling.ModelSamplingDiscrete": "percent_to_sigma timestep",
    "comfy.model_sampling.EPS": "calculate_input",
    "comfy.latent_formats.LatentFormat": "latent_channels latent_dimensions",
    "comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel": "input_blocks middle_block output_blocks",
    "comfy.ldm.modules.attention.SpatialTransformer": "transformer_blocks",
    "comfy.ldm.modules.attention.BasicTransformerBlock": "attn1 attn2 n_heads",
    "comfy.ldm.modules.attention.CrossAttention": "to_q to_k to_v to_out",
}


@dataclass(frozen=True)
class Use:
    """One place that takes something from the host. arguments: of a call; how many by position, the others' names."""

    name: str  # "comfy.utils.load_torch_file"
    file: str
    line: int
    arguments: tuple[int, tuple[str, ...]] | None = None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def sources(root: Path = ROOT) -> dict[str, str]:
    """-> the text of every shipped Python file, by its path from the root."""
    folders = [root / part for part in SHIPPED]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py") if folder.is_dir() else [folder])]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def uses(root: Path = ROOT) -> list[Use]:
    """-> every use in the shipped files, ordered by file and line."""
    return [use for file, text in sources(root).items() for use in in_source(text, file)]


def in_source(source: str, file: str) -> list[Use]:
    """-> the uses in one file. An imported name stands for the same thing in the whole file."""
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    found: dict[Use, None] = {}
    for node in ast.walk(tree):
        for name, local in _imported(node):
            found[Use(name, file, node.lineno)] = None
            bound[local] = name
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        name = _chain(node, bound) if id(node) not in inner else None
        if name is not None:
            found[Use(name, file, node.lineno, _arguments(calls.get(id(node))))] = None
    return sorted(found, key=lambda use: (use.line, use.name))


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The host's names that a statement imports, each with the name it gets. (`import comfy.utils` binds `comfy`.)"""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            if top in MODULES:
                yield (alias.name, alias.asname) if alias.asname else (alias.name, top)
    elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] in MODULES:
        for alias in node.names:
            yield f"{node.module}.{alias.name}", alias.asname or alias.name


def _chain(node: ast.AST, bound: dict[str, str]) -> str | None:
    """`comfy.utils.load` as text where it starts at an imported name."""
    ends = []
    while isinstance(node, ast.Attribute):
        ends.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in bound:
        return None
    start = node.id if node.id in MODULES else bound[node.id]
    return ".".join([start, *reversed(ends)]) if ends or start not in MODULES else None


def _arguments(call: ast.Call | None) -> tuple[int, tuple[str, ...]] | None:
    if call is None or any(isinstance(argument, ast.Starred) for argument in call.args):
        return None
    return len(call.args), tuple(keyword.arg for keyword in call.keywords if keyword.arg)


def missing(found: list[Use]) -> list[str]:
    """-> a line for each use that the imported host (`in_process.import_host`) does not have, or calls otherwise."""
    lines = []
    for use in found:
        try:
            thing = look_up(use.name)
        except (ImportError, AttributeError) as error:
            lines += [] if use.name in OPTIONAL else [f"{use.place}: {use.name}: {error}"]
            continue
        if use.arguments is not None and (refused := _refused(thing, *use.arguments)):
            lines.append(f"{use.place}: {use.name}: {refused}")
    return lines


def look_up(name: str) -> Any:
    """-> what a dotted name means. Raises ImportError or AttributeError."""
    parts = name.split(".")
    thing, done = importlib.import_module(parts[0]), parts[0]
    for part in parts[1:]:
        done = f"{done}.{part}"
        if not hasattr(thing, part) and inspect.ismodule(thing) and hasattr(thing, "__path__"):
            importlib.import_module(done)
        thing = getattr(thing, part)
    return thing


def _refused(thing: Any, positional: int, names: tuple[str, ...]) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # built in
        return ""
    try:
        signature.bind_partial(*[None] * positional, **dict.fromkeys(names))
    except TypeError as error:
        return f"{error}; it takes {signature}"
    return ""


def missing_handles(handles: dict[str, str] = HANDLES) -> list[str]:
    """-> a line for each entry that the host's class lacks, with a place that uses it, or that nothing uses."""
    text = sources()
    lines = []
    for owner, names in handles.items():
        try:
            kind = look_up(owner)
        except (ImportError, AttributeError) as error:
            lines.append(f"{owner}: {error}")
            continue
        own = "".join(inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("comfy"))
        for name in names.split():
            places = [
                f"{file}:{number}"
                for file, source in text.items()
                for number, line in enumerate(source.splitlines(), 1)
                if f".{name}" in line or f'"{name}"' in line
            ]
            if not places:
                lines.append(f"{owner}.{name}: nothing uses it any more, take it out of HANDLES")
            elif not hasattr(kind, name) and f"self.{name}" not in own:
                lines.append(f"{places[0]}: {owner}.{name}: the host's class has no such name")
    return lines


def listing(found: list[Use]) -> str:
    """-> the text of host_calls.txt: a line a name, with the files that use it (`nodes` for all of that folder)."""
    files: dict[str, set[str]] = {}
    for use in found:
        files.setdefault(use.name, set()).add("nodes" if use.file.startswith("nodes/") else use.file)
    head = "# What the pack takes from ComfyUI. Written by: python -m limelight.tools.host_calls\n"
    return head + "".join(f"{name}  {' '.join(sorted(files[name]))}\n" for name in sorted(files))


def main() -> int:
    """Write host_calls.txt and say what the host at hand lacks of it; -> 1 where it lacks something."""
    from .in_process import import_host

    found = uses()
    LISTING.write_text(listing(found), encoding="utf-8")
    host = import_host()
    lacks = missing(found) + missing_handles()
    names = len({use.name for use in found})
    print(f"{names} names at {len(found)} places; {host} lacks {len(lacks)}", *lacks, sep="\n")
    return bool(lacks)


if __name__ == "__main__":
    sys.exit(main())
