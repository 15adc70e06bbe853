"""A small untrained model of each task: what the tests of `serving` export."""

from keras_llm.models import (
    BertBackbone,
    GPT2Backbone,
    RobertaBackbone,
    T5Backbone,
    Transformer,
)
from keras_llm.tasks import (
    QuestionAnswerer,
    Summarizer,
    TextClassifier,
    TextEmbedder,
    TextPairClassifier,
    TokenClassifier,
    Translator,
    language_model,
)
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

TEXTS = ["A good film.", "坏电影！", "", "the 🙂 naïve  [MASK] \u0000 \ufffd", "good " * 90]
CORPUS = ["a good film, the naïve film", "坏电影！", "who saw the film?"] * 4


def encoder(vocabulary_size):
    return BertBackbone(vocabulary_size, 1, 2, 16, 32, max_sequence_length=32)


def classifier(**kwargs):
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    backbone = encoder(tokenizer.vocabulary_size())
    return TextClassifier(backbone, tokenizer, ["差", "good"], **kwargs)


def pair_classifier():
    tokenizer = BytePairTokenizer.train(CORPUS, 280)
    backbone = RobertaBackbone(280, 1, 2, 16, 32, max_sequence_length=32)
    return TextPairClassifier(backbone, tokenizer, ["no", "yes"])


def embedder():
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    return TextEmbedder(encoder(tokenizer.vocabulary_size()), tokenizer)


def tagger():
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    backbone = encoder(tokenizer.vocabulary_size())
    return TokenClassifier(backbone, tokenizer, ["PER", "LOC"], sequence_length=32)


def answerer():
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    backbone = encoder(tokenizer.vocabulary_size())
    return QuestionAnswerer(backbone, tokenizer, sequence_length=32, stride=8)


def summarizer():
    tokenizer = UnigramTokenizer.train(CORPUS, 27)
    backbone = T5Backbone(tokenizer.vocabulary_size(), 1, 2, 16, 32)
    return Summarizer(backbone, tokenizer, sequence_length=16, target_length=6)


def translator():
    tokenizer = WordPieceTokenizer.train(CORPUS, 50)
    backbone = Transformer(1, 16, 2, 32, tokenizer.vocabulary_size())
    return Translator(backbone, tokenizer, sequence_length=16, target_length=6)


def decoder(sampler="greedy"):
    tokenizer = BytePairTokenizer.train(CORPUS, 280)
    backbone = GPT2Backbone(280, 1, 2, 16, 32, max_sequence_length=24, dropout=0.0)
    model = language_model(backbone, tokenizer, sequence_length=24)
    model.compile(sampler=sampler)
    return model


TASKS = {
    make.__name__: make
    for make in (
        classifier,
        pair_classifier,
        embedder,
        tagger,
        answerer,
        summarizer,
        translator,
        decoder,
    )
}


def columns(name):
    """Texts to ask a task of this name, by the names of its inputs."""
    if name == "answerer":
        return {"question": ["who saw?"] * len(TEXTS), "context": TEXTS}
    if name == "pair_classifier":
        return {"text": TEXTS, "text_pair": TEXTS[::-1]}
    return {"text": TEXTS}
