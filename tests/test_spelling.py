"""Phrase to columns in the text encoders of diffusion transformers: the host's tokenizers and small random networks."""

from __future__ import annotations

import pytest
import text_encoders
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.prompts.binding import bind, bind_to, find_phrase
from limelight.guidance.prompts.spelling import Piece, SpelledText, cut, speller
from limelight.guidance.prompts.tokens import read_prompt

BOX = [{"shapes": [{"type": "box", "box": [0.1, 0.1, 0.5, 0.5]}]}]
KINDS = [kind for kind in text_encoders.MAKERS if kind != "sd3 without t5"]
LANGUAGE_MODELS = {"z_image": "qwen3_4b", "qwen_image": "qwen25_7b", "flux2": "mistral3_24b"}
SENTENCE_PIECE = ("lumina2", "wan")
T5 = {kind: "t5xxl" for kind in ("sd3", "flux", "chroma", "ltxv", "cosmos")}
ENCODERS = {**T5, "wan": "umt5xxl", "lumina2": "gemma2_2b", **LANGUAGE_MODELS}


@pytest.fixture(scope="module")
def clips(host):
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = text_encoders.make(kind, host.path)
        return made[kind]

    return make


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def clip(clips, kind):
    return clips(kind)


def document(*phrases, **fields):
    return {"version": 1, "highlights": [{"phrase": phrase, "instances": BOX, **fields} for phrase in phrases]}


def start(clip, kind, text) -> int:
    """The column of the encoder's first token, negative where the host leaves some out."""
    if kind == "sd3":
        return 77 * max(len(clip.tokenize(text)[key]) for key in "lg")
    return -34 if kind == "qwen_image" else 0


def decoded(clip, kind, text, columns) -> str:
    """What the tokenizer itself reads in the tokens of these columns."""
    name = ENCODERS[kind]
    ids = [token for chunk in clip.tokenize(text)[name] for token, _ in chunk]
    places = [column - start(clip, kind, text) for column in columns]
    own = [ids[place] for place in places if place >= 0]
    tokenizer = getattr(clip.tokenizer, name, None) or getattr(clip.tokenizer, f"clip_{name}")
    decoder = getattr(tokenizer.tokenizer, "tokenizer", None) if kind in SENTENCE_PIECE else tokenizer.tokenizer
    return closed(decoder.decode(own))


def closed(text: str) -> str:
    """Without white space, of which T5 loses some when it decodes."""
    return "".join(text.lower().split())


def test_decoded_tokens_are_the_phrase(clip, kind):
    assert len(text_encoders.PROMPTS) >= 50
    for text, phrase in text_encoders.PROMPTS:
        assert decoded(clip, kind, text, find_phrase(clip, text, phrase)) == closed(phrase), text


@pytest.mark.parametrize(
    ("text", "phrase", "occurrence", "expected"),
    [
        ("a red circle and a blue bar", "red circle", 1, "red circle"),
        ("red circle", "red circle", 1, "red circle"),
        ("Red Circle!", "A  RED\ncircle"[2:], 1, "red circle"),
        ("a shared room, a red room", "red", 1, "red"),
        ("a redcircle and a circle", "circle", 1, "circle"),
        ("un café crème, s'il vous plaît", "CAFÉ crème", 1, "café crème"),
        ('a "red circle", (big)', "red circle", 1, "red circle"),
        ("the cat's hat", "cat", 1, "cat"),
        ("a cat, a dog, a cat", "cat", 2, "cat"),
    ],
)
def test_words(clip, kind, text, phrase, occurrence, expected):
    columns = find_phrase(clip, text, phrase, occurrence)
    assert decoded(clip, kind, text, columns) == closed(expected)
    if occurrence > 1:
        assert columns > find_phrase(clip, text, phrase, 1)
    if "shared" in text:
        assert min(columns) > min(find_phrase(clip, text, "shared room"))


@pytest.mark.parametrize("kind", ["z_image", "qwen_image", "lumina2", "flux2"])
@pytest.mark.parametrize(
    ("text", "phrase"), [("猫と犬", "犬"), ("一只红色的猫在蓝色的桌子上", "红色的猫"), ("a 🐈 here", "🐈")]
)
def test_other_scripts(clip, kind, text, phrase):
    assert decoded(clip, kind, text, find_phrase(clip, text, phrase)).strip("はとの") == phrase


def test_characters_that_t5_does_not_have(clips):
    for kind in ("flux", "chroma", "ltxv", "cosmos"):
        with pytest.raises(LimelightError, match="'犬'.*t5xxl does not have all of its characters"):
            find_phrase(clips(kind), "猫と犬", "犬")
    assert find_phrase(clips("sd3"), "猫と犬, a cat", "猫と犬")  # CLIP has them


@pytest.mark.parametrize("kind", ["sd3", "flux", "chroma", "lumina2"])
def test_weights(clip, kind):
    for text in ("a (red:1.3) circle", "a ((red) circle:0.5) and (blue bar)"):
        assert decoded(clip, kind, text, find_phrase(clip, text, "red circle")) == "redcircle"
        assert find_phrase(clip, text, "(red:1.2) circle") == find_phrase(clip, text, "red circle")


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_language_models_take_parentheses_literally(clip, kind):
    with pytest.raises(LimelightError, match="not in the prompt"):
        find_phrase(clip, "a (red:1.3) circle", "red circle")
    assert decoded(clip, kind, "a (red:1.3) circle", find_phrase(clip, "a (red:1.3) circle", "red")) == "red"


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_the_template_is_not_the_users(clip, kind):
    for phrase in ("user", "assistant", "color", "<|im_start|>", "[INST]", "image"):
        with pytest.raises(LimelightError, match=f"not in the prompt.*{LANGUAGE_MODELS[kind]} reads it"):
            find_phrase(clip, "a red circle", phrase)
    text = "the user and the background color"
    columns = find_phrase(clip, text, "user")
    assert decoded(clip, kind, text, columns) == "user"
    if kind != "flux2":  # whose small vocabulary takes letters one by one
        assert len(read_prompt(clip, text).columns) == 6


def test_a_text_with_its_own_template(clips):
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na red circle<|im_end|>\n"
    columns = find_phrase(clips("qwen_image"), text, "red circle")
    whole = clips("qwen_image").encode_from_tokens(clips("qwen_image").tokenize(text))
    assert read_prompt(clips("qwen_image"), text).length == whole.shape[1]
    assert columns == (1, 2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sd3"])
@pytest.mark.parametrize("text", ["a red circle and a bar", "", "word " * 300 + "circle"])
def test_columns_are_those_of_the_conditioning(clip, kind, text):
    """The length fits, and what a token changes begins at its column (language models) or is largest there (T5)."""
    prompt = read_prompt(clip, text)
    context = clip.encode_from_tokens(clip.tokenize(text))
    assert prompt.length == context.shape[1]
    assert max(prompt.columns, default=0) < prompt.length
    if "circle" in text:
        (column,) = find_phrase(clip, text, "circle")
        other = text.replace("circle", "square")
        changed = (context - clip.encode_from_tokens(clip.tokenize(other))).abs().amax(-1)[0]
        assert changed[column] > 0
        if kind == "cosmos":  # puts zeros behind the text and its end token
            assert int(context[0].abs().amax(-1).nonzero().max()) == max(prompt.columns) + 1
        elif kind in T5:
            assert int(changed.argmax()) == column
        elif kind in LANGUAGE_MODELS or kind == "lumina2":
            assert not changed[:column].any()


def test_sd3_joins_both_kinds_of_columns(clips):
    clip, text = clips("sd3"), "a red circle and a blue bar"
    columns = find_phrase(clip, text, "blue bar")
    assert columns == (6, 7, 77 + 7, 77 + 8)  # T5 has two tokens for "a", and none before the text
    assert read_prompt(clip, text).length == 2 * 77
    long = "moon " * 80 + "and a red circle"
    columns = find_phrase(clip, long, "red circle")
    assert len(columns) == 4 and columns[0] == 77 + 1 + 80 + 2 - 75  # in CLIP's second chunk
    assert columns[2] >= 2 * 77 + 80
    assert read_prompt(clip, long).length == 2 * 77 + len(clip.tokenize(long)["t5xxl"][0])
    without = clips("sd3 without t5")
    assert find_phrase(without, text, "blue bar") == (6, 7)


def test_bind(clip, kind):
    bound = bind(clip, "a red circle and a blue bar", document("red circle", "blue bar"))
    red, blue = (item["tokens"] for item in bound["highlights"])
    assert red and blue and not set(red) & set(blue)
    assert set(red + blue) < set(bound["text_tokens"])


@pytest.mark.parametrize(
    ("text", "phrase", "fields", "words"),
    [
        (
            "a red cirle",
            "red circle",
            {},
            ["'red circle'", "not in the prompt 'a red cirle'", "Did you mean 'red cirle'"],
        ),
        ("a cat", "cat", {"occurrence": 2}, ["occurrence 2", "once"]),
        ("a cat, a cat", "cat", {"occurrence": 3}, ["occurrence 3", "2 times"]),
        ("", "cat", {}, ["no words", "'cat'"]),
        ("a dog in the park", "xylophone", {}, ["'xylophone'", "The nearest there is '"]),
    ],
)
def test_errors(clip, kind, text, phrase, fields, words):
    with pytest.raises(LimelightError) as caught:
        bind(clip, text, document(phrase, **fields))
    for word in words:
        assert word in str(caught.value)
    if "not in the prompt" in str(caught.value):
        assert ENCODERS[kind] in str(caught.value)


@pytest.mark.parametrize("kind", ["z_image", "qwen_image", "flux"])
def test_bind_to_a_conditioning_of_another_node(clip):
    from limelight.nodes.highlight_prompt import LimelightHighlightBind, LimelightHighlightPrompt

    text, highlights = "BREAK a red circle", document("red circle")
    with torch.inference_mode():
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    bound = LimelightHighlightBind.execute(encoded, clip, text, highlights)[0]
    (prompted,) = LimelightHighlightPrompt.execute(clip, text, highlights).result
    assert torch.equal(bound[0][0], prompted[0][0])
    assert bound[0][1]["limelight_highlights"] == prompted[0][1]["limelight_highlights"]
    for other in (encoded[0][0][:, :3], encoded[0][0].repeat(1, 2, 1)):
        with pytest.raises(LimelightError, match=f"conditioning: found {other.shape[1]} tokens; the text by itself"):
            LimelightHighlightBind.execute([[other, {}]], clip, text, highlights)
    with pytest.raises(LimelightError, match="phrases_alone: found on"):
        LimelightHighlightPrompt.execute(clip, text, highlights, True)


@pytest.mark.parametrize("kind", [*LANGUAGE_MODELS, "lumina2"])
def test_the_last_token_alone_knows_the_phrase(clip, kind):
    from limelight.nodes.highlight_prompt import LimelightHighlightPrompt

    text, highlights = "a red circle and a blue square", document("red circle", "blue square")
    whole, last = (
        LimelightHighlightPrompt.execute(clip, text, highlights, last_token_only=only)[0][0][1]["limelight_highlights"]
        for only in (False, True)
    )
    for all_tokens, one in zip(whole["highlights"], last["highlights"], strict=True):
        assert one == {**all_tokens, "tokens": [max(all_tokens["tokens"])]} and len(all_tokens["tokens"]) > 1
    named = [token for item in whole["highlights"] for token in item["tokens"]]
    kept = [token for item in last["highlights"] for token in item["tokens"]]
    assert set(whole["text_tokens"]) - set(last["text_tokens"]) == set(named) - set(kept)
    first, *_, end = whole["highlights"][0]["tokens"]

    def changed(other):
        return (clip.encode_from_tokens(clip.tokenize(text)) - clip.encode_from_tokens(clip.tokenize(other))).abs()[0]

    # what the phrase says first reaches its last token, not the other way round
    assert changed("a blue circle and a red square")[end].any()
    assert not changed("a red square and a blue circle")[first].any()


@pytest.mark.parametrize("kind", ["flux", "sd3", "wan"])
def test_the_last_token_is_like_the_others_where_text_is_read_both_ways(clip, clip_l):
    text = "a red circle"
    for one in (clip, clip_l):
        with pytest.raises(LimelightError, match="last_token_only: found on.*Turn it off"):
            bind_to(one, read_prompt(one, text), document("red circle"), last_token_only=True)


def test_chunks_are_refused(clips):
    with pytest.raises(LimelightError, match="first_chunk.*no"):
        read_prompt(clips("z_image"), "a cat", first_chunk=1)


def test_embeddings_take_their_columns(clips, tmp_path):
    from comfy.text_encoders import pixart_t5
    from safetensors.torch import save_file

    save_file({"t5xxl": torch.randn(3, 64)}, tmp_path / "three.safetensors")
    save_file({"t5xxl": torch.randn(2, 32)}, tmp_path / "foreign.safetensors")
    clip = clips("chroma").clone()
    clip.tokenizer = pixart_t5.PixArtTokenizer(embedding_directory=str(tmp_path))
    assert find_phrase(clip, "a embedding:three red circle", "red circle") == (5, 6)  # T5 has two tokens for "a"
    assert find_phrase(clip, "a embedding:foreign red circle", "red circle") == (2, 3)
    text = "a embedding:foreign red circle"
    assert read_prompt(clip, text).columns == [0, 1, 2, 3]


# The spelling itself --------------------------------------------------------------------------------------------------


def spelled(*pieces: bytes) -> SpelledText:
    return SpelledText("test", [Piece(column, piece, 1, 1.0) for column, piece in enumerate(pieces)])


def test_characters_across_tokens():
    text = spelled(b"a ", b"\xe7\x8c", b"\xab", b"\xe7\x8a\xac", b" cat")
    assert text.occurrences(spelled("猫".encode())) == [(1, 2)]
    assert text.occurrences(spelled(b"cat")) == [(4,)]
    assert text.words() == ["a", "猫", "犬", "cat"]


def test_white_space_inside_a_phrase_counts():
    assert spelled(b"are d").occurrences(spelled(b"a red")) == []
    assert spelled(b"a red").occurrences(spelled(b"a  red")) == [(0,)]
    assert spelled(b"red, blue").occurrences(spelled(b"red,blue")) == [(0,)]


def test_mistrals_template_and_byte_level_pieces():
    """Flux.2's tokenizer comes with its weights: its pieces are byte-level, its template is not cut."""
    vocabulary = dict(enumerate(["[INST]", "a", "Ġred", "Ġcircle", "[/INST]", "Ġcaf", "Ã", "©"]))
    spell = speller(vocabulary)
    pieces = [Piece(column, spell(token), 1, 1.0) for column, token in enumerate((0, 1, 2, 3, 5, 6, 7, 4), 3)]
    own = SpelledText("mistral3_24b", cut(pieces, "[INST]{}[/INST]"))
    assert own.columns == [4, 5, 6, 7, 8, 9]
    assert own.occurrences(spelled(b"Red circle")) == [(5, 6)]
    assert own.occurrences(spelled("café".encode())) == [(7, 8, 9)]
