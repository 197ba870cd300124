"""Translation: padding weighs nothing, nobody looks ahead, a kept past changes nothing, and data are checked."""

import gzip
import hashlib

import pytest
import sentencepiece
import torch
from pandas.testing import assert_frame_equal

from kdcourse import data, losses
from kdcourse.experiments import multi30k, study, translation
from kdcourse.experiments.multi30k import BOS, EOS, PAD
from kdcourse.experiments.translation import beam_search, build, cut, greedy, per_token, translate

VOCABULARY = 30
SHAPES = {
    "Transformer": {"network": "Transformer", "width": 16, "layers": 2, "heads": 2, "dropout": 0.1},
    "GRU": {"network": "GRU", "width": 16, "dropout": 0.1},
}
CPU = torch.device("cpu")


@pytest.fixture(params=SHAPES)
def model(request):
    """A network in eval mode with embeddings large enough that its answers differ from row to row."""
    network = build(VOCABULARY, SHAPES[request.param], 0, CPU).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(2)
    return network


def sentences(count: int, seed: int, longest: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return multi30k.rows([torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths])


def padded(tokens: torch.Tensor, more: int) -> torch.Tensor:
    return torch.nn.functional.pad(tokens, (0, more), value=PAD)


# --- the mean over tokens ---------------------------------------------------------------------------------------------


def test_the_denominator_is_the_number_of_real_tokens():
    values = torch.tensor([[1.0, 2.0, 3.0], [5.0, 100.0, float("nan")]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert per_token(values, mask).item() == pytest.approx(11 / 4)


def test_a_long_sentence_weighs_as_many_tokens_as_it_has():
    """Not a mean of the means of sentences."""
    values, mask = torch.tensor([[4.0, 0.0], [1.0, 1.0]]), torch.tensor([[True, False], [True, True]])
    assert per_token(values, mask).item() == pytest.approx(2.0)


@pytest.mark.parametrize("arm", translation.ARMS)
def test_more_padding_changes_neither_the_loss_nor_its_gradient(model, arm):
    source, target = sentences(6, 1), sentences(6, 2)
    chosen = translation.ARMS[arm]
    results = []
    for more in (0, 5):
        some, targets = padded(source, more), padded(target, 2 * more)
        teacher_logits = torch.randn(6, target.shape[1], VOCABULARY, generator=torch.Generator().manual_seed(3))
        teacher_logits = torch.nn.functional.pad(teacher_logits, (0, 0, 0, 2 * more), value=50.0)
        values = chosen.loss(model(some, targets), teacher_logits, targets, 1.5 if "level" in arm else 0.1)
        loss = per_token(values, targets != PAD)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_smoothing_is_the_mix_of_the_label_and_all_pieces_alike():
    logits, targets = torch.randn(2, 3, VOCABULARY), torch.randint(4, VOCABULARY, (2, 3))
    log_q = logits.log_softmax(-1)
    expected = 0.9 * losses.hard_loss(logits, targets) - 0.1 * log_q.mean(-1)
    torch.testing.assert_close(translation.smoothed(logits, None, targets, 0.1), expected)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_a_later_target_changes_no_earlier_logit(model):
    source, target = sentences(3, 4), torch.randint(4, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(5))
    before = model(source, target)
    for place in range(6):
        changed = target.clone()
        changed[:, place] = (changed[:, place] - 3) % (VOCABULARY - 4) + 4
        after = model(source, changed)
        # The logits of a place see the targets before it, so those of `place` itself stay too.
        torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1])
        assert place == 5 or (after[:, place + 1 :] - before[:, place + 1 :]).abs().amax() > 1e-3


def test_the_source_is_read_and_its_order_matters(model):
    source, target = torch.tensor([[5, 6, 7, EOS]]), torch.tensor([[8, 9, EOS]])
    other = torch.tensor([[7, 6, 5, EOS]])
    assert (model(source, target) - model(other, target)).abs().amax() > 1e-3


def test_the_decoder_that_keeps_its_past_equals_the_one_that_reads_all(model):
    source, target = sentences(4, 6), sentences(4, 7)
    whole = model(source, target)
    memory, past = model.memorise(source)
    inputs = torch.nn.functional.pad(target, (1, -1), value=BOS)
    for place in range(inputs.shape[1]):
        states, past = model.decode(inputs[:, place : place + 1], memory, past)
        torch.testing.assert_close(model.logits(states)[:, 0], whole[:, place], rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_network_and_leaves_the_stream_alone():
    before = torch.get_rng_state()
    one, other = (build(VOCABULARY, SHAPES["GRU"], 7, CPU) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- decoding ---------------------------------------------------------------------------------------------------------


def log_p(model, source, tokens):
    """log p of each translation by the decoder that reads all."""
    with torch.no_grad():
        nll = losses.hard_loss(model(source, tokens), tokens)
    return -nll.masked_fill(tokens == PAD, 0).sum(1)


def test_one_beam_is_greedy(model):
    source = sentences(20, 8)
    tokens, score = beam_search(model, source, 1, 9)
    expected = greedy(model, source, 9)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(score, log_p(model, source, expected), rtol=1e-4, atol=1e-4)


def test_more_beams_find_likelier_sentences(model):
    """Search can lose by chance what greedy finds, so the mean is compared, and nearly all sentences."""
    source = sentences(60, 9)
    tokens, score = beam_search(model, source, 5, 9)
    torch.testing.assert_close(score, log_p(model, source, tokens), rtol=1e-4, atol=1e-4)
    plain = log_p(model, source, greedy(model, source, 9))
    assert score.mean() > plain.mean() + 1e-3
    assert (score >= plain - 1e-4).float().mean() > 0.9


def test_wide_enough_a_beam_finds_the_mode():
    """Two pieces at most from six: all sentences can be counted."""
    model = build(6, SHAPES["Transformer"], 1, CPU).eval()
    source = torch.tensor([[4, 5, EOS], [5, 5, EOS]])
    _, score = beam_search(model, source, 36, 2)
    everything = torch.tensor([[EOS, PAD]] + [[a, b] for a in (3, 4, 5) for b in (2, 3, 4, 5)])
    for i in range(2):
        scores = log_p(model, source[i : i + 1].expand(len(everything), -1), everything)
        assert score[i].item() == pytest.approx(scores.amax().item(), abs=1e-4)


def test_translations_come_back_in_order_whatever_the_batches(model):
    source = sentences(23, 10)
    for beams in (1, 3):
        whole = translate(model, source, 8, beams)
        pieces = translate(model, source, 8, beams, rows=4)
        assert torch.equal(cut(whole), cut(pieces))
        one = translate(model, cut(source[5:6]), 8, beams)
        assert one[0].tolist() == whole[5, : one.shape[1]].tolist()


# --- batches ----------------------------------------------------------------------------------------------------------


def corpus(count: int = 50) -> translation.Corpus:
    source, target = sentences(count, 11, 12), sentences(count, 12, 12)
    return translation.Corpus(source, target, (target != PAD).sum(1) + (source != PAD).sum(1) / 1e3)


def test_an_epoch_has_every_pair_once_and_no_batch_is_too_large():
    pairs = corpus()
    epoch = list(translation.batches(pairs.order, 40, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(epoch).tolist()) == list(range(50))
    assert all(cut(pairs.target[rows]).numel() <= 40 for rows in epoch)
    other = list(translation.batches(pairs.order, 40, torch.Generator().manual_seed(1)))
    assert len(other) == len(epoch), "every epoch has as many steps"


def test_states_of_a_batch_are_those_of_its_pairs():
    pairs = corpus()
    teacher = build(VOCABULARY, SHAPES["Transformer"], 0, CPU)
    pairs.states = translation._teacher_states(teacher, pairs)
    rows = torch.tensor([40, 3, 17])
    source, target, states = pairs[rows]
    expected = teacher.states(source, target)
    real = target != PAD
    torch.testing.assert_close(states[real], expected[real], rtol=1e-4, atol=1e-5)


# --- data and scores --------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A tiny corpus in the form of Multi30k with checksums of its own."""
    articles, nouns = {"a": "ein", "the": "das"}, {"dog": "Pferd", "child": "Kind", "house": "Haus", "book": "Buch"}
    verbs = {"runs": "rennt", "sleeps": "schläft", "waits": "wartet", "falls": "fällt"}
    pairs = [
        (f"{a} {n} {v} near {b} {m}.", f"{x} {k} {w} bei {y} {o}.")
        for a, x in articles.items()
        for n, k in nouns.items()
        for v, w in verbs.items()
        for b, y in articles.items()
        for m, o in nouns.items()
    ]
    folder = tmp_path / "data" / "multi30k"
    folder.mkdir(parents=True)
    parts = {"train": pairs[:200], "val": pairs[200:220], "test_2016_flickr": pairs[220:250]}
    for part, some in parts.items():
        for side, language in enumerate(("en", "de")):
            name = f"{part}.{language}.gz"
            content = gzip.compress("".join(f"{pair[side]}\n" for pair in some).encode(), mtime=0)
            (folder / name).write_bytes(content)
            monkeypatch.setitem(multi30k.SHA256, name, hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path / "data"))
    return folder


def test_missing_data_say_what_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"multi30k: no train.en.gz in .*github.com/multi30k/dataset"):
        multi30k.read("train")


def test_another_content_is_not_accepted(made_up):
    (made_up / "val.de.gz").write_bytes(gzip.compress(b"Hallo.\n"))
    assert len(multi30k.read("train")) == 200
    with pytest.raises(ValueError, match=r"multi30k: val.de.gz must have the SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        multi30k.read("val")


def test_the_data_are_the_published_ones(needs):
    needs((data.folder() / "multi30k").is_dir(), "Multi30k", "see kdcourse.experiments.multi30k.read")
    counts = {part: len(multi30k.read(part)) for part in ("train", "val", "test_2016_flickr")}
    assert counts == {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}
    assert all(len(english.split()) <= 6 for english, _ in multi30k.short_pairs("val", 20, 6))


def test_pieces_come_back_as_the_text_and_are_kept(made_up, monkeypatch):
    pairs = multi30k.read("train")
    processor = multi30k.pieces(pairs, 60)
    assert [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()] == [0, 1, 2, 3]
    german = [german for _, german in pairs[:5]]
    rows = multi30k.rows(processor.encode(german))
    assert multi30k.text(processor, padded(rows, 3)) == german

    def train(**arguments):
        raise AssertionError("the kept model is read")

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    assert multi30k.pieces(pairs, 60).encode(german) == processor.encode(german)


def test_scores_name_how_they_were_made():
    references = ["Ein Hund rennt über die Wiese.", "Das Kind schläft in dem Haus."]
    best = multi30k.scores(references, references)
    assert best.bleu == pytest.approx(100) and best.chrf == pytest.approx(100)
    assert "tok:13a" in best.bleu_signature and "nc:6" in best.chrf_signature
    assert multi30k.scores(["Ein Hund.", "Das Haus."], references).bleu < 50


def test_the_bootstrap_tells_a_large_difference_from_none():
    references = [f"Das Kind Nummer {n} rennt schnell über die grüne Wiese." for n in range(60)]
    poor = [text.replace("rennt schnell", "geht") for text in references]
    slightly = [*poor[:-1], references[-1]]
    p_values = multi30k.paired_bootstrap({"poor": poor, "good": references, "alike": slightly}, references, 200)
    assert list(p_values) == ["good", "alike"]
    assert p_values["good"] < 0.02 < 0.1 < p_values["alike"]


# --- the study --------------------------------------------------------------------------------------------------------


def tables(file):
    units = study.read(file)["scales"]["smoke"]["units"]
    return {name: study._table(unit["runs"]) for name, unit in units.items()}


def test_a_study_that_lost_a_unit_ends_with_the_same_numbers(made_up, tmp_path):
    file = study.run(translation.STUDY, "smoke", folder=tmp_path)
    before, facts = tables(file), study.read(file)["scales"]["smoke"]["facts"]
    assert facts["pairs"] == 60 and facts["target_pieces"] > 60 and 0 <= facts["padding_share"] < 1
    with study._changing(file, translation.STUDY) as scales:
        scales["smoke"]["units"].pop("GRU, seed 341")
    study.run(translation.STUDY, "smoke", folder=tmp_path, resume=True)
    after = tables(file)
    assert set(after) == set(before)
    for name, table in before.items():
        assert_frame_equal(table, after[name])
        hard = table.arm == "hard labels"
        assert (table.p_value.isna() == hard).all() and table.drop(columns="p_value").notna().all(axis=None)
    assert not list(made_up.parent.glob("kdcourse/*.[0-9]*")), "what is kept is complete"
    # The teacher and its translations are read again, not made again: a machine without them makes the same.
    for kept in (made_up.parent / "kdcourse").glob("*.pt"):
        kept.unlink()
    world, again = translation.prepare(translation.STUDY.settings("smoke"), CPU)
    assert {name: study._plain(value) for name, value in again.items()} == facts
    people, teacher = world.train["people"], world.train["teacher"]
    assert teacher.order is people.order, "every arm takes the same sources in the same steps"
    assert len(teacher.target) == len(people.target) and (teacher.target == EOS).any(1).all()
