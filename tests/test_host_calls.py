"""All that the pack takes from ComfyUI is there, in the host that these tests run on."""

from __future__ import annotations

from limelight.tools.host_calls import LISTING, Use, in_source, listing, missing, missing_handles, uses

SOURCE = """
import os
import comfy.utils
import comfy.model_management as management
from comfy.patcher_extension import WrappersMP
from . import nodes

def f(model):
    from comfy.controlnet import nothing_of_this_name
    management.load_models_gpu([model], 0, wrong=1)
    comfy.utils.repeat_to_batch_size(model, *model)
    return WrappersMP.APPLY_MODEL, os.path
"""


def test_the_host_has_what_the_pack_uses(host):
    found = uses()
    assert len({use.name for use in found}) > 50
    assert missing(found) == []


def test_the_hosts_objects_have_what_the_pack_uses(host):
    assert missing_handles() == []


def test_the_list_is_of_today():
    assert LISTING.read_text(encoding="utf-8") == listing(uses()), "run python -m limelight.tools.host_calls"


def test_uses_are_read_from_the_source(host):
    found = in_source(SOURCE, "a.py")
    names = [(use.line, use.name) for use in found]
    assert names == [
        (3, "comfy.utils"),
        (4, "comfy.model_management"),
        (5, "comfy.patcher_extension.WrappersMP"),
        (9, "comfy.controlnet.nothing_of_this_name"),
        (10, "comfy.model_management.load_models_gpu"),
        (11, "comfy.utils.repeat_to_batch_size"),
        (12, "comfy.patcher_extension.WrappersMP.APPLY_MODEL"),
    ]
    lines = missing(found)
    assert len(lines) == 2
    assert lines[0].startswith("a.py:9: comfy.controlnet.nothing_of_this_name: ")
    assert lines[1].startswith(
        "a.py:10: comfy.model_management.load_models_gpu: got an unexpected keyword argument 'wrong'"
    )


def test_a_name_that_goes_is_told_with_its_place(host):
    assert missing([Use("folder_paths.gone", "nodes/x.py", 7)]) == [
        "nodes/x.py:7: folder_paths.gone: module 'folder_paths' has no attribute 'gone'"
    ]
    gone, unused = missing_handles({"comfy.sd.CLIP": "diffusion_model never_used"})
    assert "comfy.sd.CLIP.diffusion_model: the host's class has no such name" in gone and ":" in gone.split()[0]
    assert "never_used: nothing uses it" in unused
