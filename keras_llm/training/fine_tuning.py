"""Fine-tuning gently: layers that learn slowly, and layers that do not learn at all.

Notable: what was pretrained is general near the embeddings and particular near the head, so a step
should change it the less the deeper it lies. Both functions find the parts of a backbone by
KerasHub's names: lists of blocks, and layers with "embedding" in their names.
"""

# The lists of blocks of our backbones and of KerasHub's; an encoder-decoder has two.
STACKS = (
    "transformer_layers",
    "encoder_layers",
    "decoder_layers",
    "encoder_transformer_layers",
    "decoder_transformer_layers",
)


def layerwise_decay(model, rate):
    r"""Says how much slower each variable should learn, from the head down to the embeddings.

    Of $n$ blocks, block $i$, counted from 0, learns at the rate times $r^{n - i}$, the embeddings
    at $r^{n + 1}$, and what stands above the blocks, the head, at the rate itself. "ULMFiT" (Howard
    and Ruder, 2018, section 3.2) has $r = 1 / 2.6$; "ELECTRA" (Clark et al., 2020, appendix B) from
    0.9 for a large model to 0.7 for a small one.

    Args:
        model: a task with a `backbone`, or a backbone: ours or KerasHub's.
        rate: float in (0, 1], the factor $r$ from one block to the one below it.

    Returns:
        List of float, one for each of `model.trainable_variables`, in their order: the
        `rate_multipliers` of `AdamW`. Call `freeze` before, not after.

    Raises:
        ValueError: `rate` is not in (0, 1], or the model has no list of blocks.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.training import AdamW
        >>> multipliers = layerwise_decay(BertBackbone.tiny(100), 0.5)
        >>> sorted(set(multipliers))
        [0.125, 0.25, 0.5, 1.0]
        >>> optimizer = AdamW(5e-5, rate_multipliers=multipliers)
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate must be more than 0 and at most 1, not {rate}.")
    stacks, embeddings = _parts(model)
    powers = {layer: max(map(len, stacks)) + 1 for layer in embeddings}
    for stack in stacks:
        powers |= {block: len(stack) - i for i, block in enumerate(stack)}
    multipliers = {
        id(variable): rate**power
        for layer, power in powers.items()
        for variable in layer.trainable_variables
    }
    return [multipliers.get(id(variable), 1.0) for variable in model.trainable_variables]


def freeze(model, num_blocks=0):
    """Keeps the embeddings and the first blocks as they are: a step is cheaper and forgets less.

    "What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning" (Lee et al., 2019): to
    fine-tune the last quarter of the blocks keeps nine tenths of the quality. Freeze before
    `compile`. Dropout goes on in frozen layers.

    Args:
        model: a task with a `backbone`, or a backbone: ours or KerasHub's.
        num_blocks: int, how many blocks from below are frozen beside the embeddings, of an
            encoder-decoder in each of the two stacks.

    Raises:
        ValueError: the model has fewer blocks, or no list of blocks.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> backbone = BertBackbone.tiny(100)
        >>> before = len(backbone.trainable_variables)
        >>> freeze(backbone, num_blocks=1)
        >>> before, len(backbone.trainable_variables)
        (39, 18)
    """
    stacks, embeddings = _parts(model)
    limit = min(map(len, stacks))
    if not 0 <= num_blocks <= limit:
        raise ValueError(
            f"num_blocks={num_blocks} must be at least 0 and at most the model's {limit} blocks."
        )
    for layer in (*embeddings, *(block for stack in stacks for block in stack[:num_blocks])):
        layer.trainable = False


def _parts(model):
    """Returns the lists of blocks and the layers that make the embeddings."""
    backbone = getattr(model, "backbone", None) or model
    stacks = [list(getattr(backbone, name)) for name in STACKS if hasattr(backbone, name)]
    if not stacks:
        raise ValueError(
            f"{type(backbone).__name__} has none of the lists of blocks {', '.join(STACKS)}. Pass "
            "a task or backbone of this package or of KerasHub."
        )
    return stacks, [layer for layer in backbone.layers if "embedding" in layer.name]
