"""What the study of translation reads and how it scores: Multi30k, its word pieces, BLEU and chrF.

Multi30k (Elliott, Frank, Sima'an and Specia, 2016) are captions of photographs in English with German translations:
29,000 pairs to train on, 1,014 for validation, 1,000 to test. An example is a row of piece numbers that ends with EOS
and is filled up with PAD.
"""

import gzip
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import sentencepiece
import torch
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kdcourse import data

PAD, BOS, EOS, UNK = range(4)
SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}


def read(part: str) -> list[tuple[str, str]]:
    """The pairs (English, German) of "train", "val" or "test_2016_flickr".

    A file that is missing is a FileNotFoundError, one with another content a ValueError.
    """
    folder = data.folder() / "multi30k"
    how = f"copy the files of data/task1/raw of https://github.com/multi30k/dataset to {folder}"
    languages = []
    for name in (f"{part}.en.gz", f"{part}.de.gz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"multi30k: no {name} in {folder}; {how}")
        content = (folder / name).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[name]:
            raise ValueError(f"multi30k: {name} must have the SHA-256 {SHA256[name]}, got {found}; {how}")
        languages.append(gzip.decompress(content).decode("utf-8").splitlines())
    return list(zip(*languages, strict=True))


def short_pairs(part: str, pairs: int, words: int) -> list[tuple[str, str]]:
    """The first `pairs` pairs whose English side has at most `words` words."""
    return [pair for pair in read(part) if len(pair[0].split()) <= words][:pairs]


def pieces(pairs: Sequence[tuple[str, str]], vocabulary: int) -> sentencepiece.SentencePieceProcessor:
    """Joint byte-pair encoding of both languages, learned from these pairs once and kept beside the data.

    Source: Sennrich, Haddow and Birch (2016), arXiv:1508.07909; computed by sentencepiece.
    """
    text = [sentence for pair in pairs for sentence in pair]
    key = hashlib.sha256("\n".join([f"{vocabulary}", *text]).encode()).hexdigest()[:12]
    kept = data.folder() / "kdcourse" / f"multi30k-{key}.model"
    if not kept.exists():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_writer=model,
            vocab_size=vocabulary,
            model_type="bpe",
            character_coverage=1.0,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            minloglevel=2,
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(model.getvalue())
        os.replace(partial, kept)
    return sentencepiece.SentencePieceProcessor(model_file=str(kept))


def rows(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Piece numbers as one tensor [sentences, tokens]: each ends with EOS, then PAD."""
    return pad_sequence([torch.tensor([*ids, EOS]) for ids in sentences], batch_first=True, padding_value=PAD)


def text(processor: sentencepiece.SentencePieceProcessor, tokens: Tensor) -> list[str]:
    """The sentences of rows of piece numbers, each up to its first EOS."""
    lists = [row[: row.index(EOS)] if EOS in row else row for row in tokens.tolist()]
    return processor.decode(lists)


@dataclass(frozen=True)
class Scores:
    """BLEU and chrF of a test set, from 0 to 100, with what sacrebleu was told."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def scores(outputs: Sequence[str], references: Sequence[str]) -> Scores:
    """BLEU and chrF by sacrebleu with its defaults; a number without its signature cannot be compared.

    Source: Post (2018), arXiv:1804.08771.
    """
    bleu, chrf = BLEU(), CHRF()
    values = [metric.corpus_score(outputs, [references]).score for metric in (bleu, chrf)]
    return Scores(*values, f"{bleu.get_signature()}", f"{chrf.get_signature()}")


def paired_bootstrap(
    outputs: dict[str, Sequence[str]], references: Sequence[str], samples: int = 1000
) -> dict[str, float]:
    """p-value for the BLEU of each system against the first one: the same sentences drawn again for both.

    Source: Koehn (2004), "Statistical significance tests for machine translation evaluation"; computed by sacrebleu.
    """
    test = PairedTest(list(outputs.items()), {"BLEU": BLEU()}, [references], test_type="bs", n_samples=samples)
    _, results = test()
    return {name: result.p_value for name, result in list(zip(outputs, results["BLEU"], strict=True))[1:]}
