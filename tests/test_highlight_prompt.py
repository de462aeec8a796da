"""Highlight Prompt and Highlight Bind, with the host's own encoders and conditioning nodes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.guidance.errors import LimelightError
from limelight.guidance.prompts.binding import KEY, bind

BOX = [{"shapes": [{"type": "box", "box": [0.1, 0.1, 0.5, 0.5]}]}]
EMPTY = {"version": 1, "highlights": []}
LONG = "a (red circle:1.2), " + "moon and sun, " * 30 + "a blue bar"
TEXTS = ["a red circle and a blue bar", LONG, "a (red circle:1.2) BREAK a ((blue bar))", ""]


def document(*phrases, **fields):
    return {"version": 1, "highlights": [{"phrase": phrase, "instances": BOX, **fields} for phrase in phrases]}


@pytest.fixture(scope="module")
def prompt_node(host):
    from limelight.nodes.highlight_prompt import LimelightHighlightPrompt

    return lambda *args: LimelightHighlightPrompt.execute(*args).result[0]


@pytest.fixture(scope="module")
def bind_node(host):
    from limelight.nodes.highlight_prompt import LimelightHighlightBind

    return lambda *args, **options: LimelightHighlightBind.execute(*args, **options).result[0]


@pytest.fixture(scope="module")
def encode(core_nodes):
    """-> function (clip, text) -> what the stock CLIP Text Encode makes of it."""
    return lambda clip, text: core_nodes["CLIPTextEncode"]().encode(clip, text)[0]


@pytest.fixture(scope="module")
def concat(core_nodes):
    return lambda first, second: core_nodes["ConditioningConcat"]().concat(first, second)[0]


def assert_same_encoding(ours, stock):
    assert len(ours) == len(stock)
    for (tensor, options), (stock_tensor, stock_options) in zip(ours, stock, strict=True):
        assert torch.equal(tensor, stock_tensor)
        assert set(options) - {KEY} == set(stock_options)
        assert torch.equal(options["pooled_output"], stock_options["pooled_output"])


def snapshot(conditioning):
    return [(tensor.clone(), copy.deepcopy(options)) for tensor, options in conditioning]


def assert_unchanged(conditioning, before):
    for (tensor, options), (old_tensor, old_options) in zip(conditioning, before, strict=True):
        assert torch.equal(tensor, old_tensor)
        assert set(options) == set(old_options)
        assert options.get(KEY) == old_options.get(KEY)


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_as_the_stock_node(clip_l, clip_sdxl, prompt_node, encode, text):
    for clip in (clip_l, clip_sdxl):
        stock = encode(clip, text)
        plain = prompt_node(clip, text, EMPTY)
        assert_same_encoding(plain, stock)
        assert KEY not in plain[0][1]
        if text:
            bound = prompt_node(clip, text, document("red circle", "blue bar", strength=0.0))
            assert_same_encoding(bound, stock)
            assert bound[0][1][KEY] == bind(clip, text, document("red circle", "blue bar", strength=0.0))
            assert json.loads(json.dumps(bound[0][1][KEY])) == bound[0][1][KEY]


def test_clip_skip_is_kept(clip_l, prompt_node, encode):
    clip = clip_l.clone()
    clip.clip_layer(-2)
    text = "a red circle"
    assert_same_encoding(prompt_node(clip, text, document("red circle")), encode(clip, text))
    assert not torch.equal(encode(clip, text)[0][0], encode(clip_l, text)[0][0])


def test_every_entry_of_a_scheduled_encoding_is_bound(clip_l, prompt_node, encode, core_nodes):
    import comfy.hooks

    keyframes = comfy.hooks.HookKeyframeGroup()
    keyframes.add(comfy.hooks.HookKeyframe(strength=1.0))
    keyframes.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.5))
    hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    hooks.set_keyframes_on_hooks(keyframes)
    clip = core_nodes["SetClipHooks"]().apply_hooks(clip_l, schedule_clip=True, apply_to_conds=False, hooks=hooks)[0]
    text = "a red circle"
    stock = encode(clip, text)
    assert [options["clip_start_percent"] for _, options in stock] == [0.0, 0.5]
    ours = prompt_node(clip, text, document("red circle"))
    assert_same_encoding(ours, stock)
    assert all(options[KEY]["highlights"][0]["tokens"] == [2, 3] for _, options in ours)


def test_the_key_reaches_the_sampler(clip_l, prompt_node):
    from comfy.sampler_helpers import convert_cond

    conditioning = prompt_node(clip_l, "a red circle", document("red circle"))
    assert convert_cond(conditioning)[0][KEY] == conditioning[0][1][KEY]


@pytest.mark.parametrize("text", TEXTS[:3])
def test_bind_equals_prompt(clip_l, clip_sdxl, prompt_node, bind_node, encode, text):
    for clip in (clip_l, clip_sdxl):
        stock = encode(clip, text)
        before = snapshot(stock)
        highlights = document("red circle", "blue bar")
        bound = bind_node(stock, clip, text, highlights)
        assert_unchanged(stock, before)
        assert_same_encoding(bound, stock)
        assert bound[0][1][KEY] == prompt_node(clip, text, highlights)[0][1][KEY]
        assert bind_node(stock, clip, text, EMPTY) is stock


def test_bind_adds_to_what_is_bound(clip_l, prompt_node, bind_node):
    text = "a red circle and a blue bar"
    first = prompt_node(clip_l, text, document("red circle"))
    before = snapshot(first)
    both = bind_node(first, clip_l, text, document("blue bar"))
    assert both[0][1][KEY] == bind(clip_l, text, document("red circle", "blue bar"))
    assert_unchanged(first, before)
    with pytest.raises(LimelightError, match="share words"):
        bind_node(first, clip_l, text, document("circle"))
    assert_unchanged(first, before)


def test_bind_both_texts_of_a_concatenation(clip_l, prompt_node, bind_node, encode, concat):
    second = "a blue bar"
    for first, chunks in (("a red circle", 1), (LONG, 2)):
        joined = concat(prompt_node(clip_l, first, document("red circle")), encode(clip_l, second))
        bound = bind_node(joined, clip_l, second, document("blue bar"), first_chunk=chunks)[0][1][KEY]
        columns = bound["highlights"][1]["tokens"]
        assert columns == [77 * chunks + 2, 77 * chunks + 3]
        assert bound["highlights"][0]["tokens"] == [2, 3]
        assert {77 * chunks + 1, *columns} <= set(bound["text_tokens"])
        # the columns are those of the second text: encoding other words there changes them
        other = concat(encode(clip_l, first), encode(clip_l, "a green bar"))
        changed = (joined[0][0] != other[0][0]).any(-1)[0].nonzero()
        assert changed[0].item() == columns[0]
        with pytest.raises(LimelightError, match="conditioning: found"):
            bind_node(joined, clip_l, second, document("blue bar"), first_chunk=chunks + 1)


def test_bind_parts_between_breaks(clip_l, bind_node, encode, concat):
    text = "a red circle BREAK a blue bar"
    parts = concat(encode(clip_l, "a red circle "), encode(clip_l, " a blue bar"))
    bound = bind_node(parts, clip_l, text, document("blue bar"), break_starts_chunk=True)[0][1][KEY]
    assert bound["highlights"][0]["tokens"] == [79, 80]
    assert bound["text_tokens"] == [1, 2, 3, 78, 79, 80]
    with pytest.raises(LimelightError, match="break_starts_chunk"):
        bind_node(parts, clip_l, text, document("blue bar"))
    with pytest.raises(LimelightError, match="break_starts_chunk"):
        bind_node(encode(clip_l, text), clip_l, text, document("blue bar"), break_starts_chunk=True)
    stock = bind_node(encode(clip_l, text), clip_l, text, document("blue bar"))[0][1][KEY]
    assert stock["highlights"][0]["tokens"] == [6, 7]


def test_a_conditioning_of_a_shorter_text_is_refused(clip_l, bind_node, encode):
    with pytest.raises(LimelightError, match="found 77 tokens; the text takes 154"):
        bind_node(encode(clip_l, "a red circle"), clip_l, LONG, document("red circle"))


@pytest.mark.parametrize(
    ("text", "highlights", "message"),
    [
        ("", document("cat"), "no words"),
        ("a dog", document("cat"), "'cat': not in the prompt 'a dog'"),
        ("a red cat", document("cat", "red cat"), "share words"),
        ("a cat", document("cat", occurrence=2), "occurrence 2"),
        ("a cat", None, "highlights"),
        (None, document("cat"), "expected text"),
    ],
)
def test_errors_come_before_the_encoding(clip_l, prompt_node, bind_node, encode, text, highlights, message):
    clip = clip_l.clone()
    clip.cond_stage_model.encode_token_weights = None  # an attempt to encode would fail otherwise
    try:
        with pytest.raises(LimelightError, match=message):
            prompt_node(clip, text, highlights)
    finally:
        del clip.cond_stage_model.encode_token_weights
    with pytest.raises(LimelightError, match=message):
        bind_node(encode(clip_l, "a red cat"), clip_l, text, highlights)


def test_no_clip(prompt_node):
    for highlights in (EMPTY, document("cat")):
        with pytest.raises(LimelightError, match="clip: found nothing"):
            prompt_node(None, "a cat", highlights)


def test_schema(host):
    from limelight.nodes.highlight_prompt import NODES

    for node in NODES:
        schema = node.define_schema()
        assert schema.node_id == node.__name__
        assert schema.description
        assert all(item.tooltip for item in [*schema.inputs, *schema.outputs])


PIECES = ["(", ")", "\\(", ":1.2)", ":1e999)", "cat", "red cat", ",", " ", "embedding:", "BREAK", "<|endoftext|>", "\0"]
TEXT = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(PIECES)), max_size=30).map("".join)
PLAIN = st.none() | st.integers() | st.text(max_size=5)
HIGHLIGHTS = st.one_of(
    st.just(EMPTY),
    st.lists(st.one_of(TEXT, st.just("cat")), min_size=1, max_size=3).map(lambda phrases: document(*phrases)),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4
    ),
)


@settings(max_examples=500, deadline=None)
@given(text=TEXT, highlights=HIGHLIGHTS, first=st.integers(0, 1000), split=st.booleans(), long=st.booleans())
def test_any_input_gives_a_conditioning_or_our_error(
    clip_l, prompt_node, bind_node, text, highlights, first, split, long
):
    entry = torch.zeros(1, 77 * (1200 if long else 1), 64)
    for run in (
        lambda: prompt_node(clip_l, text, highlights),
        lambda: bind_node([[entry, {}]], clip_l, text, highlights, first_chunk=first, break_starts_chunk=split),
    ):
        try:
            conditioning = run()
        except LimelightError as error:
            assert str(error)
        else:
            for tensor, options in conditioning:
                bound = options.get(KEY, {"text_tokens": [], "highlights": []})
                columns = [column for item in bound["highlights"] for column in item["tokens"]]
                assert len(columns) == len(set(columns))
                assert set(columns) <= set(bound["text_tokens"]) <= set(range(tensor.shape[1]))
