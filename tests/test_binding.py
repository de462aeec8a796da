"""Phrase to tokens, against the host's tokenizers and text encoders and against transformers' own decoding."""

from __future__ import annotations

import pytest
import text_encoders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.guidance.errors import LimelightError
from limelight.guidance.prompts.binding import bind, find_in, find_phrase, merge_bound
from limelight.guidance.prompts.tokens import read_prompt

BOX = [{"shapes": [{"type": "box", "box": [0.1, 0.1, 0.5, 0.5]}]}]
LONG = ", ".join(
    f"{color} {shape}" for color in ("red", "blue", "green", "gray", "pink") for shape in ("cat", "dog") * 4
)


def document(*phrases, **fields):
    return {"version": 1, "highlights": [{"phrase": phrase, "instances": BOX, **fields} for phrase in phrases]}


@pytest.fixture(scope="module")
def decode(host):
    """-> function (clip, text, columns) -> what transformers' tokenizer reads in the ids that the host puts there."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(host.path / "comfy" / "sd1_tokenizer")

    def read(clip, text, columns, tower="l"):
        ids = [token for chunk in clip.tokenize(text)[tower] for token, _ in chunk]
        return tokenizer.decode([ids[column] for column in columns]).strip()

    return read


@pytest.fixture(scope="module")
def with_embeddings(clip_l, clip_sdxl, tmp_path_factory):
    """CLIP objects of both kinds with embedding files: of the right widths, and one that fits clip_l only."""
    import comfy.sd1_clip
    import comfy.sdxl_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"clip_l": torch.randn(3, 64), "clip_g": torch.randn(3, 96)}, folder / "three.safetensors")
    save_file({"emb_params": torch.randn(2, 64)}, folder / "narrow.safetensors")
    save_file({"emb_params": torch.randn(2, 768)}, folder / "foreign.safetensors")
    (folder / "broken.pt").write_bytes(b"not a file of tensors")
    sd1, sdxl = clip_l.clone(), clip_sdxl.clone()
    sd1.tokenizer = comfy.sd1_clip.SD1Tokenizer(embedding_directory=str(folder))
    sdxl.tokenizer = comfy.sdxl_clip.SDXLTokenizer(embedding_directory=str(folder))
    return sd1, sdxl


def test_decoded_tokens_are_the_phrase(clip_l, clip_sdxl, decode):
    for text, phrase in text_encoders.PROMPTS:
        for clip in (clip_l, clip_sdxl):
            found = decode(clip, text, find_phrase(clip, text, phrase))
            assert "".join(found.split()) == "".join(phrase.split()), text


def first_changed(clip, text, word_id, tower="clip_l"):
    """First column of the context that depends on the embedding of a token (the text encoder is causal)."""
    weight = getattr(clip.cond_stage_model, tower).transformer.get_input_embeddings().weight
    with torch.inference_mode():
        before = clip.encode_from_tokens(clip.tokenize(text))
        kept = weight[word_id].clone()
        weight[word_id] += 1
        after = clip.encode_from_tokens(clip.tokenize(text))
        weight[word_id] = kept
    changed = (before != after).any(-1)[0].nonzero().flatten().tolist()
    chunk = changed[0] // 77
    assert changed == list(range(changed[0], 77 * (chunk + 1)))  # the word, what follows it, and no other chunk
    return changed[0]


@pytest.mark.parametrize(
    ("text", "phrase", "occurrence", "columns"),
    [
        ("a red circle and a blue bar", "red circle", 1, (2, 3)),
        ("a red circle and a blue bar", "A  RED\ncircle", 1, (1, 2, 3)),
        ("a Red Circle", "red circle", 1, (2, 3)),
        ("a (red:1.3) circle", "red circle", 1, (2, 3)),
        ("a ((red) circle:0.5) and (blue bar)", "red circle", 1, (2, 3)),
        ("a red circle", "(red:1.2) circle", 1, (2, 3)),
        # CLIP makes one token of "),", and "'s" of the start of "'sunflower": these words are not there for the model
        (r"a circle \(red\), big", "circle (red)", 1, ()),
        ("a 'sunflower'", "sunflower", 1, ()),
        (r"a circle \(red\) big", "circle (red)", 1, (2, 3, 4, 5)),
        (r"a circle \(red\) big", r"circle \(red\)", 1, (2, 3, 4, 5)),
        (r"a circle \(red\) big", "red", 1, (4,)),
        ("a cat, a dog, a cat", "cat", 1, (2,)),
        ("a cat, a dog, a cat", "cat", 2, (8,)),
        ("a cat, a dog, a cat", "a cat", 2, (7, 8)),
        ("very very very big", "very very", 1, (1, 2)),
        ("a cat, a dog", "cat, a", 1, (2, 3, 4)),
        ("the cat's hat", "cat", 1, (2,)),
        ("the cat's hat", "cat's", 1, (2, 3)),
        ("a party of art", "art", 1, (4,)),
        ("a redcircle and a circle", "circle", 1, (6,)),
        ("a chiaroscuro circle", "chiaroscuro", 1, (2, 3, 4, 5)),
        ("dogs, BREAK a cat", "cat", 1, (5,)),
        ("猫と犬, a cat", "猫と犬", 1, (1, 2, 3, 4, 5, 6, 7)),
        ("un café crème", "CAFÉ", 1, (2,)),
    ],
)
def test_columns(clip_l, clip_sd2, clip_sdxl, text, phrase, occurrence, columns):
    for clip in (clip_l, clip_sd2, clip_sdxl):
        if columns:
            assert find_phrase(clip, text, phrase, occurrence) == columns
        else:
            with pytest.raises(LimelightError, match="not in the prompt"):
                find_phrase(clip, text, phrase, occurrence)


@pytest.mark.parametrize(("phrase", "word"), [("pink cat", "pink"), ("red cat", "red"), ("violin", "violin")])
def test_columns_are_those_of_the_context(clip_l, clip_sd2, clip_sdxl, decode, phrase, word):
    text = f"{LONG}, (a violin:1.3) and {LONG}"
    (word_id,) = clip_l.tokenizer.clip_l.tokenizer(word)["input_ids"][1:-1]
    for clip, towers in ((clip_l, ["l"]), (clip_sd2, ["h"]), (clip_sdxl, ["l", "g"])):
        columns = find_phrase(clip, text, phrase)
        assert [decode(clip, text, columns, tower) for tower in towers] == [phrase] * len(towers)
        only_once = text.replace(word, "moon").replace("moon", word, 1)
        assert find_phrase(clip, only_once, word) == columns[:1]
        for tower in towers:
            assert first_changed(clip, only_once, word_id, f"clip_{tower}") == columns[0]
        found = [find_phrase(clip, text, phrase, n + 1) for n in range(text.count(phrase))]
        assert [decode(clip, text, columns, towers[0]) for columns in found] == [phrase] * len(found)
        assert sorted(set(found)) == found


def test_a_long_part_is_cut_anywhere_and_the_phrase_with_it(clip_l, decode):
    text = "moon " * 74 + "red circle"
    assert find_phrase(clip_l, text, "red circle") == (75, 78)
    assert decode(clip_l, text, (75, 78)) == "red circle"


def test_chunks_of_another_length(clip_l):
    import comfy.sd1_clip

    clip = clip_l.clone()
    clip.tokenizer = comfy.sd1_clip.SD1Tokenizer(tokenizer_data={"clip_l_max_length": 20})
    assert find_phrase(clip, "moon " * 18 + "red circle", "red circle") == (21, 22)


def test_sd2(clip_sd2):
    bound = bind(clip_sd2, "! a red circle", document("red circle"))  # "!" has the id of OpenCLIP's padding
    assert bound["highlights"][0]["tokens"] == [3, 4]
    assert bound["text_tokens"] == [1, 2, 3, 4]


def test_embeddings_shift_what_follows(with_embeddings):
    text = "a embedding:three red circle, (embedding:three:1.2) blue bar"
    for clip in with_embeddings:
        assert find_phrase(clip, text, "red circle") == (5, 6)
        assert find_phrase(clip, text, "blue bar") == (11, 12)
        assert find_phrase(clip, text, "embedding:three") == (2, 3, 4)
        assert find_phrase(clip, text, "embedding:three blue", 1) == (8, 9, 10, 11)
        assert find_phrase(clip, text, "embedding:three", 2) == (8, 9, 10)
        assert read_prompt(clip, text).columns == list(range(1, 13))
        with pytest.raises(LimelightError, match="not in the prompt"):
            find_phrase(clip, text, "a red circle")


def test_an_embedding_of_another_width_is_dropped_as_the_host_does(with_embeddings):
    sd1, sdxl = with_embeddings
    (circle,) = sd1.tokenizer.clip_l.tokenizer("circle")["input_ids"][1:-1]
    for clip in with_embeddings:
        text = "a embedding:foreign red circle"
        assert find_phrase(clip, text, "red circle") == (2, 3)
        assert first_changed(clip, text, circle) == 3
    with pytest.raises(LimelightError, match="has no words"):
        find_phrase(sd1, "a embedding:foreign red circle", "embedding:foreign")
    text = "a cat embedding:narrow red circle"
    assert find_phrase(sd1, text, "red circle") == (5, 6)
    assert find_phrase(sdxl, text, "cat") == (2,)
    for phrase in ("red circle", "embedding:narrow"):
        with pytest.raises(LimelightError, match="different positions"):
            find_phrase(sdxl, text, phrase)


def test_missing_and_broken_embeddings(with_embeddings):
    sd1 = with_embeddings[0]
    assert find_phrase(sd1, "a embedding:nowhere red circle", "red circle") == (2, 3)
    with pytest.raises(LimelightError, match="has no words"):
        find_phrase(sd1, "a red circle", "embedding:nowhere")
    for text in ("a red circle embedding:broken", "embedding:"):
        try:
            assert find_phrase(sd1, text, "red circle") == (2, 3)
        except LimelightError as error:
            assert "cannot tokenize" in str(error)


def test_parts_between_breaks(clip_l):
    text = "a (red) circle BREAK a blue bar BREAK"
    prompt = read_prompt(clip_l, text, first_chunk=2, split_at_break=True)
    assert prompt.columns == [155, 156, 157, 232, 233, 234]
    assert prompt.length == 5 * 77
    assert read_prompt(clip_l, text).length == 77
    with pytest.raises(LimelightError, match="BREAK stands inside parentheses"):
        read_prompt(clip_l, "a (red BREAK circle:1.2)", split_at_break=True)


def test_bind(clip_sdxl):
    text = "a red circle and a red circle, gray background"
    highlights = document("red circle")
    highlights["highlights"] += document("red circle", occurrence=2, strength=0.5)["highlights"]
    bound = bind(clip_sdxl, text, highlights)
    assert bound == {
        "version": 1,
        "text_tokens": list(range(1, 11)),
        "highlights": [
            {"phrase": "red circle", "tokens": [2, 3], "strength": 1.0, "instances": BOX},
            {"phrase": "red circle", "tokens": [6, 7], "strength": 0.5, "instances": BOX},
        ],
    }
    assert bind(clip_sdxl, "", document()) == {"version": 1, "text_tokens": [], "highlights": []}


def test_merge_leaves_its_inputs_alone(clip_l):
    first = bind(clip_l, "a red circle and a blue bar", document("red circle"))
    second = bind(clip_l, "a red circle and a blue bar", document("blue bar"))
    merged = merge_bound(first, second)
    assert [item["phrase"] for item in merged["highlights"]] == ["red circle", "blue bar"]
    assert len(first["highlights"]) == len(second["highlights"]) == 1
    with pytest.raises(LimelightError, match="share words"):
        merge_bound(merged, second)


@pytest.mark.parametrize(
    ("text", "highlights", "words"),
    [
        ("", document("cat"), ["''", "no words", "'cat'"]),
        (" \n\t", document("cat"), ["no words"]),
        ("()", document("cat"), ["no words"]),
        ("two cats", document("cat"), ["'cat'", "not in the prompt 'two cats'", "clip_l", "Did you mean 'cats'"]),
        ("a dog", document("xylophone"), ["'xylophone'", "clip_l", "The nearest there is 'dog'"]),
        ("a red cirle", document("red circle"), ["Did you mean 'red cirle'"]),
        ("a party", document("art"), ["'art'", "not in the prompt"]),
        ("sun", document("sun and moon"), ["3 in the phrase, 1 in the prompt"]),
        ("a cat", document("cat", occurrence=2), ["occurrence 2", "once"]),
        ("a cat, a cat", document("cat", occurrence=3), ["occurrence 3", "2 times"]),
        ("a red cat", document("red cat", "cat"), ["'red cat' and 'cat' share words"]),
        ("a red cat", document("cat", "Cat"), ["already has a highlight"]),
        ("a cat", document("cat", "a", "a cat"), ["3 highlights", "2 tokens"]),
        ("a cat", document("()"), ["'()'", "not in the prompt"]),
        (7, document("cat"), ["text", "found int", "expected text"]),
        ("(" * 3000, document("cat"), ["not in the prompt"]),
        ("(" * 3000 + "cat" + ")" * 3000, document("cat"), ["cannot tokenize"]),
        ("a \ud800 cat", document("cat"), ["cannot tokenize"]),
        ("a cat", {"version": 2, "highlights": []}, ["version"]),
    ],
)
def test_errors(clip_l, text, highlights, words):
    with pytest.raises(LimelightError) as caught:
        bind(clip_l, text, highlights)
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 800


def test_other_text_encoders_are_refused_by_name(clip_l):
    from comfy.text_encoders import omnigen2, sa_t5

    clip = clip_l.clone()
    for tokenizer, words in ((sa_t5.SAT5Tokenizer, "SAT5Tokenizer.*t5base"), (omnigen2.Omnigen2Tokenizer, "qwen25_3b")):
        clip.tokenizer = tokenizer()
        with pytest.raises(LimelightError, match=f"{words}.*not supported yet"):
            find_phrase(clip, "a cat", "cat")
    with pytest.raises(LimelightError, match="clip: found nothing"):
        find_phrase(None, "a cat", "cat")


WORDS = st.sampled_from(
    "a red Blue cat dogs BREAK chiaroscuro sunflower xkqz 7 it's café 猫 über-cool art party".split()
)
FORMS = st.sampled_from(["{}", "{}", "({})", "(({}))", "({}:1.3)", "(({}:0.2))", r"\({}\)", "[{}]", '"{}"'])
GAPS = st.sampled_from([" ", ", ", ",", ". ", " \n", " - "])
GROUPS = st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=6), FORMS, GAPS), min_size=1, max_size=25)
FUZZ = settings(max_examples=300, deadline=None)


def mentions(groups, phrase):
    """How often a phrase stands in a prompt, counted on whole words without any tokenizer."""
    flat = []
    for words, form, gap in groups:
        edge = [] if form[0] in "{(" else ["|"]
        flat += [*edge, *(word.lower() for word in words), *edge, *(["|"] if gap.strip() else [])]
    wanted = phrase.lower().split()
    count = at = 0
    while at < len(flat):
        hit = flat[at : at + len(wanted)] == wanted
        count, at = count + hit, at + (len(wanted) if hit else 1)
    return count


@FUZZ
@given(groups=GROUPS, data=st.data())
def test_phrases_drawn_from_the_prompt_are_found(clip_sdxl, decode, groups, data):
    text = "".join(form.format(" ".join(words)) + gap for words, form, gap in groups)
    words = data.draw(st.sampled_from(groups))[0]
    begin = data.draw(st.integers(0, len(words) - 1))
    phrase = " ".join(words[begin : begin + data.draw(st.integers(1, 6))])
    prompt = read_prompt(clip_sdxl, text)
    found = [find_in(clip_sdxl, prompt, phrase, n + 1) for n in range(mentions(groups, phrase))]
    with pytest.raises(LimelightError, match=f"occurrence {len(found) + 1} was asked for"):
        find_in(clip_sdxl, prompt, phrase, len(found) + 1)
    for columns in found:
        for tower in "lg":
            read = decode(clip_sdxl, text, columns, tower)
            assert read.replace(" ", "") == phrase.lower().replace(" ", "")
    flat = [column for columns in found for column in columns]
    assert flat == sorted(set(flat))


GARBAGE = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["(", ")", "\\(", "\\", ":", ":1e999", "cat", " ", "embedding:", "embedding:three", " embedding:foreign,x"]
            + ["<|endoftext|>", "<|startoftext|>", "BREAK", "\0", "\0\1", "\ud800", "'s", "cat" * 40, "!"]
        ),
    ),
    max_size=30,
).map("".join)


@FUZZ
@given(text=GARBAGE, phrase=GARBAGE, occurrence=st.integers(1, 3), first=st.integers(0, 2), split=st.booleans())
def test_garbage_gives_a_result_or_our_error(with_embeddings, text, phrase, occurrence, first, split):
    for clip in with_embeddings:
        try:
            prompt = read_prompt(clip, text, first, split)
            bound = bind(clip, text, document(phrase, occurrence=occurrence))
        except LimelightError as error:
            assert str(error)
        else:
            assert set(bound["highlights"][0]["tokens"]) <= set(bound["text_tokens"])
            assert max(prompt.columns, default=0) < prompt.length
