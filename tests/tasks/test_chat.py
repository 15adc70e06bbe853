import keras
import keras_hub
import pytest

from keras_llm import objectives, training
from keras_llm.models import GPT2Backbone, GPT2CausalLM
from keras_llm.tasks import Chat
from keras_llm.tokenizers import WordPieceTokenizer

# The third reply depends on what was said before: a model that forgets cannot know it.
DIALOGUES = [
    ["i am ann", "hello", "who am i", "you are ann"],
    ["i am bob", "hello", "who am i", "you are bob"],
]
TOKENIZER = WordPieceTokenizer.train([t for turns in DIALOGUES for t in turns] * 8, 60)


def untrained(length=32):
    keras.utils.set_random_seed(0)
    size = TOKENIZER.vocabulary_size()
    backbone = GPT2Backbone(size, 2, 2, 32, 64, dropout=0.0, max_sequence_length=length)
    preprocessor = keras_hub.models.CausalLMPreprocessor(TOKENIZER, length)
    model = GPT2CausalLM(backbone, preprocessor)
    model.compile(training.AdamW(5e-3), sampler="greedy", weighted_metrics=[])
    return model


@pytest.fixture(scope="module")
def model():
    model = untrained()
    examples = objectives.dialogue_examples(DIALOGUES * 8, TOKENIZER, 16, 32)
    model.fit(examples, steps_per_epoch=120, verbose=0)
    return model


def test_remembers_what_was_said(model):
    for name in ("ann", "bob"):
        chat = Chat(model, max_reply=8)
        assert chat.reply(f"i am {name}") == "hello"
        assert chat.reply("who am i") == f"you are {name}"
        assert chat.turns == [f"i am {name}", "hello", "who am i", f"you are {name}"]
        chat.forget()
        assert chat.turns == []


def test_goes_on_with_a_conversation(model):
    chat = Chat(model, max_reply=8, turns=["i am bob", "hello"])
    assert chat.reply("who am i") == "you are bob"


def test_a_conversation_longer_than_the_model_reads(model, monkeypatch):
    chat, prompts = Chat(model, max_reply=8), []
    generate = chat.writer.generate

    def record(inputs, **kwargs):
        prompts.append(TOKENIZER.decode(inputs["token_ids"][inputs["padding_mask"]].tolist()))
        return generate(inputs, **kwargs)

    monkeypatch.setattr(chat.writer, "generate", record)
    for name in ("ann", "bob", "ann", "bob", "ann"):
        chat.reply(f"i am {name}")
    assert len(chat.turns) == 10
    said = [" ".join(filter(None, chat.turns[:n])) for n in (1, 3, 5, 7, 9)]
    assert prompts[0] == said[0] and prompts[1] == said[1]
    assert said[4].endswith(prompts[4]) and prompts[4] != said[4]
    assert prompts[4].endswith(chat.turns[8])


def test_a_reply_ends_at_its_limit():
    model = untrained()
    table = model.backbone.token_embedding.embeddings
    table.assign(keras.random.normal(table.shape, seed=1))  # says anything but the end, at length
    reply = Chat(model, max_reply=5).reply("i am ann")
    assert len(TOKENIZER.encode(reply)) <= 5


def test_what_cannot_be_replied_to(model):
    chat = Chat(model)
    with pytest.raises(ValueError, match="empty"):
        chat.reply(" \n")
    with pytest.raises(TypeError, match="string"):
        chat.reply(3)
    assert chat.turns == []
    with pytest.raises(ValueError, match="max_reply=30"):
        Chat(model, max_reply=30)
    with pytest.raises(ValueError, match="has no reply"):
        Chat(model, turns=["hello"])
