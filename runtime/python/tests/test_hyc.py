"""What the package promises, on the tiny model. Needs pytest and numpy; `.ci/wheel` runs it in a fresh environment."""

import gc
import os
import pathlib
import signal
import threading
import time

import hyc
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.hyc"
    size = hyc.compile(ROOT / "examples/tiny-hysparse/model.toml", path)
    assert size == path.stat().st_size > 10 << 20
    return path


@pytest.fixture(scope="session")
def model(path):
    return hyc.load(path)


@pytest.fixture
def session(model):
    return model.session()


def test_a_model_says_what_it_is(model):
    assert (model.name, model.vocab, model.layers) == ("tiny-hysparse", 4096, 9)
    assert model.plan["model"]["max_context"] == model.max_context
    assert model.graph.startswith("graph ")
    assert model.decode(model.encode("The kernel")) == "The kernel"
    assert model.session_bytes(max_sequences=1) < model.session_bytes()


def test_a_continuation_is_an_iterator(model, session):
    generation = session.generate("The kernel", max_new_tokens=12, seed=1)
    events = list(generation)
    assert events[0].kind == "prefill"
    assert events[-1].kind == "end" and events[-1].finish == generation.finish
    text = "".join(event.text for event in events if event.kind == "text")
    tokens = [event.token for event in events if event.kind == "token"]
    assert (text, tokens) == (generation.text, generation.tokens)
    assert next(generation, None) is None
    again = session.generate(model.encode("The kernel"), max_new_tokens=12, seed=generation.seed)
    assert again.run() == text


def test_stop_texts_and_sampling(session):
    text = session.generate("The kernel", max_new_tokens=64, stop=["e"], temperature=0.0).run()
    assert "e" not in text
    hot = {session.generate("The", max_new_tokens=8, temperature=2.0, seed=seed).run() for seed in range(4)}
    assert len(hot) > 1


def test_a_batch_gives_what_each_prompt_gives_alone(session):
    prompts = ["The kernel", "A compiler", "The cache", "A page", "The block"]
    together = session.batch(prompts, max_new_tokens=8, temperature=0.0).run()
    alone = [session.generate(prompt, max_new_tokens=8, temperature=0.0).run() for prompt in prompts]
    assert together == alone
    batch = session.batch(["The kernel", []], max_new_tokens=4)
    seen = {}
    for index, event in batch:
        seen.setdefault(index, []).append(event)
    assert isinstance(seen[1][0], hyc.Error) and seen[1][0].kind == "bad-input"
    assert seen[0][-1].kind == "end"
    cancelled = session.batch(["The kernel"], max_new_tokens=4)
    cancelled.cancel(0)
    assert [error.kind for _, error in cancelled] == ["cancelled"]


def test_logits_are_not_copied_by_numpy(model, session):
    sequence = session.add_sequence()
    session.feed(sequence, model.encode("The kernel"))
    chosen = session.step()
    row = session.output(sequence, "logits")
    logits = np.asarray(row)
    assert logits.dtype == np.float32 and logits.shape == (model.vocab,) == (len(row),)
    assert np.shares_memory(logits, np.asarray(row))
    assert not logits.flags.writeable
    assert row.tolist()[7] == logits[7]
    assert int(logits.argmax()) == chosen[sequence]
    del row
    gc.collect()
    assert np.isfinite(logits).all()
    assert np.asarray(session.output(sequence, "hidden")).shape == (256,)


def test_sequences_fork_and_are_taken_back(model, session):
    sequence = session.add_sequence()
    kept = session.generate("The kernel", sequence=sequence, max_new_tokens=4, temperature=0.0)
    first = kept.run()
    del kept
    fork = session.fork(sequence)
    held = session.tokens(fork)
    assert held[:-1] == session.tokens(sequence)[: len(held) - 1]
    session.truncate(fork, len(model.encode("The kernel")) - 1)
    rest = model.encode("The kernel")[-1:]
    assert session.generate(rest, sequence=fork, max_new_tokens=4, temperature=0.0).run() == first
    session.remove_sequence(fork)
    with pytest.raises(hyc.Error, match="no sequence"):
        session.tokens(fork)


def test_selections_are_by_layer_token_and_head(model, session):
    tokens = (model.encode("The kernel of the compiler ") * 40)[:200]
    selected = session.selections(session.add_sequence(), tokens)
    assert list(selected) == [0, 4]
    for rows in selected.values():
        assert len(rows) == len(tokens)
        # 256 tokens are selected: all blocks that there are.
        assert [len(head) for head in rows[-1]] == [-(-len(tokens) // model.block)] * len(rows[-1])
        assert all(0 <= block <= at // model.block for at, heads in enumerate(rows) for head in heads for block in head)


def test_errors_have_a_kind_and_a_help(tmp_path, path, session):
    with pytest.raises(hyc.Error) as error:
        hyc.load(tmp_path / "none.hyc")
    assert error.value.kind == "bad-input" and error.value.help == "check the path"
    assert "help: check the path" in str(error.value)
    broken = tmp_path / "broken.hyc"
    broken.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(hyc.Error) as error:
        hyc.load(broken)
    assert error.value.kind == "bad-artefact"
    wrong = tmp_path / "model.toml"
    wrong.write_text("[model]\nnme = 'x'\n")
    with pytest.raises(hyc.Error, match="nme"):
        hyc.compile(wrong, tmp_path / "x.hyc")
    with pytest.raises(hyc.Error, match="there is no cpu"):
        hyc.compile(wrong, tmp_path / "x.hyc", cpu="fast")
    with pytest.raises(hyc.Error):
        session.generate("x", temperature=-1.0)
    with pytest.raises(hyc.Error, match="the prompt is empty"):
        session.generate([])
    with pytest.raises(OverflowError):
        session.generate([-1])
    with pytest.raises(TypeError):
        session.generate(7)
    assert type(session).__module__ == "hyc"


def test_other_threads_run_meanwhile(model):
    counted = [0]
    stop = threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    model.session().generate("The kernel " * 200, max_new_tokens=64, ignore_eos=True).run()
    stop.set()
    thread.join()
    assert counted[0] > 10


def test_a_session_is_one_thread_s_at_a_time(model):
    session = model.session()
    generation = session.generate("The kernel " * 300, max_new_tokens=512, ignore_eos=True)
    ended = []

    def run():
        try:
            generation.run()
        except hyc.Error as error:
            ended.append(error.kind)

    thread = threading.Thread(target=run)
    thread.start()
    kinds = set()
    while thread.is_alive() and not kinds:
        try:
            session.remove_sequence(session.add_sequence())
        except hyc.Error as error:
            kinds.add(error.kind)
    generation.cancel()
    thread.join()
    assert kinds == {"busy"} and ended == ["cancelled"]


def test_what_goes_while_another_thread_is_inside_leaves_the_session(model):
    session = model.session(max_sequences=2)
    for _ in range(8):
        going = [session.generate("The kernel"), session.batch(["A page"])]
        running = session.generate("The kernel " * 20, max_new_tokens=16)
        thread = threading.Thread(target=running.run)
        thread.start()
        going.clear()
        thread.join()
        del running


def test_ctrl_c_ends_a_long_prompt(model):
    session = model.session()
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            session.generate("The kernel " * 400, max_new_tokens=512, ignore_eos=True).run()
    timer.join()
    assert session.generate("The kernel", max_new_tokens=2).run()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told(model):
    session = model.session()
    child = os.fork()
    if child == 0:
        try:
            session.generate("The kernel").run()
        except hyc.Error as error:
            os._exit(0 if error.kind == "unsupported" and error.help else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
