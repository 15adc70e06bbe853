"""A page to look at an export: a text goes in, and what a server would answer is shown.

Notable: nothing but the export is loaded, no model of Keras, so that what is shown is what is
served. The page asks for nothing from elsewhere: fonts and scripts are the system's and its own.
"""

import functools
import html
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_llm.serving import views
from keras_llm.serving.exported import Export
from keras_llm.serving.warmup import read_warmup

STYLE = """
.words { line-height: 2.1; white-space: pre-wrap; }
.word { border-radius: 4px; padding: 2px 3px; }
.legend { font-size: 0.85em; margin-top: 0.6em; }
.token { border: 1px solid var(--border-color-primary); border-radius: 4px; display: inline-block;
    line-height: 1.4; margin: 0 4px 4px 0; min-height: 2.8em; padding: 2px 6px;
    text-align: center; white-space: pre; }
.token small { display: block; font-size: 0.75em; opacity: 0.75; }
"""


class View(NamedTuple):
    """How answers of a kind are shown.

    `inputs` and `outputs` are functions of Gradio and the export that lay out components and return
    them; `answer` is one of the export and the values of the inputs, and returns the values of the
    outputs.
    """

    button: str
    inputs: Callable
    outputs: Callable
    answer: Callable


def page(path):
    """Builds a page that shows what an export answers.

    Of classifiers it shows labels with scores, how much each word raises or lowers that of the
    label, and the tokens; of taggers the spans in the text, of question answering the answer in its
    passage, of embeddings the similarity of texts, of all others the text that is written: language
    models write it while one looks. The examples are the warm-up requests of the export.

    Args:
        path: Path of a version, as `export` returns it, or of a model's folder: its last version.

    Returns:
        A `gradio.Blocks`; `show_page` serves it.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: the page cannot show what the export answers.
        ImportError: the extra `[page]` is missing.

    Example:
        >>> page("no/such/export")
        Traceback (most recent call last):
        FileNotFoundError: There is no export at no/such/export. ...
    """
    gr = _gradio()
    export = Export(path)
    view = _view(export)
    with gr.Blocks(title=export.title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {export.title}")
        with gr.Row():
            with gr.Column():
                inputs = view.inputs(gr, export)
                button = gr.Button(view.button, variant="primary")
                _examples(gr, export, inputs)
            with gr.Column():
                outputs = view.outputs(gr, export)
        answer = functools.partial(view.answer, export)
        button.click(answer, inputs, outputs, api_name="answer")
    return blocks


def show_page(path, port=None, host="127.0.0.1"):
    """Serves the page of an export in the background: what `keras-llm demo-page` does.

    Args:
        path: as `page`.
        port: int, or None for the first that is free from 7860 on.
        host: str, the address to listen at; "0.0.0.0" for all of this machine.

    Returns:
        The `gradio.Blocks`, with its `local_url`; `block_thread()` waits for Ctrl-C, `close()` ends
        it.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `page`.
        OSError: the port is taken.

    Example:
        >>> show_page("no/such/export")
        Traceback (most recent call last):
        FileNotFoundError: There is no export at no/such/export. ...
    """
    blocks = page(path)
    gr = _gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        theme=gr.themes.Default(primary_hue="blue", **fonts),
        css=STYLE,
        footer_links=[],
        run_history=False,
        share=False,
        ssr_mode=False,
    )
    return blocks


def _gradio():
    try:
        import gradio
    except ImportError as error:
        raise ImportError("Gradio is missing: pip install 'keras-llm[page]'.") from error
    return gradio


def _view(export):
    """Chooses by what the export answers."""
    names = set(export.outputs)
    if "generate" in export.signatures:
        return View("Write", _prompt, _written, _write)
    if "probabilities" in names and names & {"label", "labels"}:
        return View("Classify", _texts, _labels, _classify)
    if {"words", "tags"} <= names:
        return View("Tag", _texts, _marked, _tag)
    if {"answer", "start", "end"} <= names and "context" in export.inputs:
        return View("Answer", _texts, _passage, _answer)
    if names == {"embedding"} and len(export.inputs) == 1:
        return View("Compare", _text_and_others, _similarities, _compare)
    if [tensor.dtype for tensor in export.outputs.values()] == [tf.string]:
        return View("Write", _texts, _one_text, _transform)
    raise ValueError(
        f"{export.version} answers {', '.join(sorted(names))}. The page shows labels with "
        "probabilities, words with tags, answers in a context, embeddings, and texts."
    )


def _examples(gr, export, inputs):
    """Lists some of the warm-up requests, to be clicked."""
    requests = read_warmup(export.version)
    if requests:
        rows = [list(row) for row in zip(*(requests[name] for name in export.inputs), strict=True)]
        gr.Examples([row for row in rows if any(row)][:8], inputs[: len(export.inputs)])


def _texts(gr, export):
    return [gr.Textbox(label=name, lines=3) for name in export.inputs]


def _check(*texts):
    if not all(text and text.strip() for text in texts):
        raise _gradio().Error("Type a text first.", title="No text", print_exception=False)


def _labels(gr, export):
    return [
        gr.HTML(),
        gr.Label(label="scores", show_heading=False, num_top_classes=10),
        _box(gr, "words"),
        *([_box(gr, "tokens")] if _has_tokens(export) else []),
    ]


def _has_tokens(export):
    return "tokenize" in export.signatures and len(export.inputs) == 1 and bool(export.tokens)


def _box(gr, label):
    return gr.HTML(label=label, show_label=True, container=True, padding=True)


def _classify(export, *texts):
    _check(*texts)
    answer = export.first(texts)
    given = [answer["label"]] if "label" in answer else [name for name in answer["labels"] if name]
    scores = dict(zip(export.classes, map(float, answer["probabilities"]), strict=True))
    changes = views.occlusion(
        lambda columns: export.ask(columns)["probabilities"],
        dict(zip(export.inputs, texts, strict=True)),
    )
    shown = [
        f"<h2>{html.escape(', '.join(given)) or 'no label'}</h2>",
        scores,
        views.colored(changes, max(scores, key=scores.get)),
    ]
    if _has_tokens(export):
        shown.append(views.numbered(export.tokenize(*texts)))
    return shown


def _marked(gr, export):
    return [_box(gr, "tags")]


def _tag(export, text):
    _check(text)
    answer = export.first([text])
    if "entities" in answer:
        return views.marked(views.spans(text, answer["starts"], answer["ends"], answer["labels"]))
    return views.marked(views.spans(text, *views.places(text, answer["words"]), answer["tags"]))


def _passage(gr, export):
    return [gr.Label(label="answer", show_heading=False), _box(gr, "passage")]


def _answer(export, *texts):
    _check(*texts)
    answer = export.first(texts)
    context = texts[export.inputs.index("context")]
    silence = float(answer["no_answer_probability"])
    scores = {"no answer": silence}
    if answer["answer"]:
        scores[answer["answer"]] = 1 - silence
    label = f"score {answer['score']:.1f}"
    place = [answer["start"]], [answer["end"]], [label]
    return scores, views.marked(views.spans(context, *place))


def _text_and_others(gr, export):
    return [gr.Textbox(label="text", lines=2), gr.Textbox(label="others, one a line", lines=5)]


def _similarities(gr, export):
    return [gr.Dataframe(headers=["text", "similarity"], label="similarity", interactive=False)]


def _compare(export, text, others):
    others = [line for line in others.splitlines() if line.strip()]
    _check(text, *others or [""])
    embeddings = export.ask({export.inputs[0]: [text, *others]})["embedding"]
    similarities = views.cosines(embeddings)
    ranked = sorted(zip(others, similarities, strict=True), key=lambda row: -row[1])
    return [[other, round(float(similarity), 3)] for other, similarity in ranked]


def _one_text(gr, export):
    return [gr.Textbox(label=name, lines=4) for name in export.outputs]


def _transform(export, *texts):
    _check(*texts)
    return next(iter(export.first(texts).values()))


def _prompt(gr, export):
    return [
        gr.Textbox(label="prompt", lines=3),
        gr.Slider(1, 512, 64, step=1, label="max_new_tokens"),
        gr.Slider(0, 2, 0.8, step=0.05, label="temperature", info="0: the most probable token"),
        gr.Slider(0, 200, 0, step=1, label="top_k", info="0: all"),
        gr.Slider(0.05, 1, 0.95, step=0.05, label="top_p"),
        gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="seed"),
    ]


def _written(gr, export):
    return [gr.Textbox(label="text", lines=12, buttons=["copy"])]


def _write(export, prompt, most, temperature, top_k, top_p, seed):
    options = {"temperature": [temperature], "top_k": [top_k], "top_p": [top_p], "seed": [seed]}

    def generate(count):
        request = {"prompt": [prompt], "max_new_tokens": [count], **options}
        answer = export.ask(request, "generate")
        return answer["text"][0], int(answer["new_tokens"][0])

    yield from views.growing(generate, most)
