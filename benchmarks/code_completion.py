"""Does a small decoder complete code better than counting does?

A new Llama and n-gram models of the same tokens learn the functions of the standard library's
training part, and go on from the first lines of functions of the test part: the head and the first
statement, often the docstring. The order of the n-grams is chosen on the validation part. Prints
the perplexity of held-out functions, and which share of the completions Python can parse, the most
probable ones and ones drawn at random, beside that of the functions as they were written.

    python benchmarks/code_completion.py [--steps 1500] [--prompts 100] [--seed 0]
"""

import argparse
import ast
import textwrap
import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_llm import corpora, objectives, training
from keras_llm.models import LlamaBackbone, NGramLM
from keras_llm.tasks import language_model, share_that_parses
from keras_llm.tokenizers import BytePairTokenizer

VOCABULARY, LENGTH, BATCH_SIZE = 4000, 256, 16


def functions(node):
    """Streams the functions and methods of a module or class, none that is inside another."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.ClassDef):
            yield from functions(child)


def sources(part):
    """Returns pairs of the first lines of each function, and the whole, as if it stood alone."""
    found = {}
    for text in part.texts():
        lines = text.splitlines(keepends=True)
        for node in functions(ast.parse(text)):
            source = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
            source = source.rstrip() + "\n"
            head = node.body[0].end_lineno - node.lineno + 1
            # Without its line break, which makes a token with the indentation that follows.
            found[source] = "\n".join(source.split("\n")[:head])
    return [(prompt, source) for source, prompt in found.items()]


def train(texts, tokenizer, steps, seed):
    """Trains a new decoder on functions; returns it and the minutes of processor time."""
    keras.utils.set_random_seed(seed)
    backbone = LlamaBackbone(
        VOCABULARY, 4, 4, 128, 384, 4, tie_word_embeddings=True, max_sequence_length=LENGTH
    )
    model = language_model(backbone, tokenizer, LENGTH)
    schedule = training.WarmupLinearDecay(3e-3, steps)
    model.compile(training.AdamW(schedule), sampler="greedy", weighted_metrics=[])
    batches = objectives.causal_lm_examples(texts, tokenizer, BATCH_SIZE, LENGTH, seed=seed)
    start = time.process_time()
    model.fit(batches, steps_per_epoch=steps, verbose=2)
    return model, (time.process_time() - start) / 60


def prompts_of(pairs, tokenizer, number, seed):
    """Draws functions whose first lines are at most half a window, and which go on after them."""
    pairs = [
        pair
        for pair in pairs
        if pair[0] != pair[1].rstrip() and len(tokenizer.encode(pair[0])) <= LENGTH // 2
    ]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:number]
    return [pairs[i] for i in chosen]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    parts = [sources(part) for part in corpora.load("python_standard_library").split()]
    texts, validation, test = ([source for _, source in part] for part in parts)
    tokenizer = BytePairTokenizer.train(texts, VOCABULARY)
    model, minutes = train(texts, tokenizer, arguments.steps, arguments.seed)
    ngrams = [NGramLM(tokenizer, order).fit(texts) for order in range(2, 7)]
    ngram = min(ngrams, key=lambda ngram: ngram.perplexity(validation[:300]))

    pairs = prompts_of(parts[2], tokenizer, arguments.prompts, arguments.seed)
    prompts = [prompt for prompt, _ in pairs]
    room = LENGTH - 1  # beside the start token
    new = [room - len(tokenizer.encode(prompt)) for prompt in prompts]
    written = {"decoder": [], f"{ngram.order}-gram": []}
    for sampler, temperature in (("greedy", 0.0), ("random", 1.0)):
        model.compile(sampler=sampler)
        written["decoder"].append(model.generate(prompts, seed=arguments.seed))
        written[f"{ngram.order}-gram"].append(
            [
                ngram.generate(prompt, count, temperature, seed=arguments.seed + i)
                for i, (prompt, count) in enumerate(zip(prompts, new, strict=True))
            ]
        )
    truth = [tokenizer.decode(tokenizer.encode(source)[:room]) for _, source in pairs]

    table = Table(
        "",
        "perplexity",
        "parses: most probable",
        "parses: drawn",
        title=f"{len(texts):,} functions, {minutes:.1f} min; {len(test):,} held out",
    )
    for (name, completions), judge in zip(written.items(), (model, ngram), strict=True):
        shares = [f"{share_that_parses(prompts, found):.2f}" for found in completions]
        table.add_row(name, f"{judge.perplexity(test):.1f}", *shares)
    table.add_row("as written", "", f"{share_that_parses(prompts, truth):.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
