"""The variants of a sweep: which there are, what each sets, and which configuration that gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.loading import load_config
from configs.sections.sweep import MOST_VARIANTS, Sweep
from configs.values import filled_in
from configs.variants import as_overrides, in_words, load_variants, variants
from configs.yaml_text import parse_yaml
from tasks.sweeping.identity import variant_key

HIDDEN, BATCH = "model.params.hidden", "training.batch_size"


def sweep(**fields: Any) -> Sweep:
    return Sweep.model_validate(fields)


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    """Return a configuration of the digits example with a grid of two by two."""
    file = tmp_path / "cfg.yaml"
    file.write_text(f"""
name: digits
data: {{load: "configs.digits:load"}}
model: {{build: "configs.digits:build"}}
sweep: {{params: {{{HIDDEN}: [32, 64], {BATCH}: [16, 32]}}}}
""")
    return file


def test_a_grid_is_every_combination() -> None:
    """Two values of one key and three of another are six variants, the first key varying slowest."""
    found = variants(sweep(params={HIDDEN: [1, 2], "seed": [3, 4, 5]}))
    assert [tuple(one.values()) for one in found] == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)]


def test_listed_variants_come_first_and_equal_ones_count_once() -> None:
    """A listed variant that the grid has as well is one variant, and the order of its keys does not matter."""
    listed = [{"seed": 7}, {BATCH: 16, HIDDEN: 32}]
    found = variants(sweep(variants=listed, params={HIDDEN: [32, 64], BATCH: [16]}))
    assert found == [*listed, {HIDDEN: 64, BATCH: 16}]
    assert variants(sweep()) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_draws_depend_on_the_seed_alone(seed: int, draws: int) -> None:
    """The same seed gives the same draws, different and in their ranges; fewer of them are the first of more."""
    params = {
        "model.params.rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "model.params.drop": {"low": -1, "high": 2},
        HIDDEN: {"low": 3, "high": 200, "log": True, "integer": True},
        BATCH: [16, 32],
    }
    found = variants(sweep(params=params, draws=draws, seed=seed))
    assert found == variants(sweep(params=params, draws=draws, seed=seed))
    assert found == variants(sweep(params=params, draws=draws + 5, seed=seed))[:draws]
    assert len({repr(one) for one in found}) == len(found) == draws
    for one in found:
        assert 1e-5 <= one["model.params.rate"] <= 1e-1
        assert -1 <= one["model.params.drop"] <= 2
        assert isinstance(one[HIDDEN], int) and 3 <= one[HIDDEN] <= 200
        assert one[BATCH] in (16, 32)


def test_draws_of_few_possibilities() -> None:
    """More draws than there are different variants give each of them once, both ends of a range included."""
    found = variants(sweep(params={HIDDEN: {"low": 1, "high": 3, "integer": True}}, draws=50))
    assert sorted(one[HIDDEN] for one in found) == [1, 2, 3]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abé "${}:', max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_an_override_is_read_back_as_the_value(value: Any) -> None:
    """Whatever a variant sets, the `--set` item of a command gives the same value of the same type."""
    (item,) = as_overrides({HIDDEN: value})
    key, _, text = item.partition("=")
    assert (key, "\n" in text) == (HIDDEN, False)
    read = filled_in({"model": {"params": {"hidden": parse_yaml(text)}}})["model"]["params"]["hidden"]
    assert same(read, value)


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal and of the same types, inside as well."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_text_that_looks_like_a_variable(cfg: Path) -> None:
    """A value that says ${NAME} literally stays what it is, and is not looked up in the environment again."""
    text = as_overrides({HIDDEN: "a ${NOT_SET} $${NOT_SET} ${"})
    assert load_config(cfg, text).model.params["hidden"] == "a ${NOT_SET} $${NOT_SET} ${"


def test_each_variant_has_its_configuration(cfg: Path) -> None:
    """A variant's configuration has its values, all else is as in the file, and its overrides give the same again."""
    config, found = load_variants(cfg, ["training.epochs=3"])
    assert [str(one) for one in found] == [
        f"variant {n} (hidden {hidden}, batch_size {batch})"
        for n, (hidden, batch) in enumerate([(32, 16), (32, 32), (64, 16), (64, 32)], 1)
    ]
    for one in found:
        assert one.config.model.params["hidden"] == one.values[HIDDEN]
        assert one.config.training.batch_size == one.values[BATCH]
        assert one.config.training.epochs == 3
        assert load_config(cfg, ["training.epochs=3", *one.overrides]) == one.config
        assert one.config.data == config.data


def test_variants_whose_training_is_the_same(cfg: Path) -> None:
    """A variant that sets what is the default anyway is the same as one that does not set it."""
    _, found = load_variants(cfg, ["sweep={variants: [{seed: 0}, {training.batch_size: 32}, {seed: 1}]}"])
    assert [dict(one.values) for one in found] == [{"seed": 0}, {"seed": 1}]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("{params: {data.seed: [1, 2]}}", "must vary model.params.NAME, training.FIELD or seed only, and 'data.seed'"),
        ("{params: {model.build: [a]}}", "'model.build' is none of them"),
        ("{params: {training: [1]}}", "'training' is none of them"),
        ("{params: {model.params.: [1]}}", "'model.params.' is none of them"),
        ("{params: {'model.params.a=b': [1]}}", "is none of them"),
        ("{params: {seedling: [1]}}", "'seedling' is none of them"),
        ("{variants: [{promote.mode: auto}]}", "'promote.mode' is none of them"),
        ("{params: {seed: 3}}", "must map 'seed' to a list of values, such as [32, 64], or to a range"),
        ("{params: {seed: []}}", "must map 'seed' to a list"),
        ("{params: {seed: [1e-3]}}", "YAML reads '1e-3' as text"),
        ("{params: {seed: [1.0e5]}}", "with a point and a signed exponent for 'seed', such as 1.0e+5"),
        ("{params: {model.params.rates: [[0.1, .5E3]]}}", "YAML reads '.5E3' as text"),
        ("{variants: [{model.params.adam: {rate: 2e5}}]}", "YAML reads '2e5' as text"),
        ("{params: {seed: {low: 1, high: 2}}}", "must set draws, because params has a range for 'seed'"),
        ("{draws: 3}", "must say in params what is drawn"),
        ("{draws: 3, params: {seed: {low: 1}}}", "must have low and high in the range of 'seed'"),
        ("{draws: 3, params: {seed: {low: 1e-3, high: 2}}}", "YAML reads 1e-4 as text, write 1.0e-4"),
        ("{draws: 3, params: {seed: {low: 2, high: 2}}}", "must have a low below high for 'seed'"),
        ("{draws: 3, params: {seed: {low: 1, high: .inf}}}", "both finite"),
        ("{draws: 3, params: {seed: {low: 0, high: 2, log: true}}}", "must have a low above 0 for 'seed'"),
        ("{draws: 3, params: {seed: {low: 1, high: 2.5, integer: true}}}", "must have whole numbers"),
        ("{draws: 3, params: {seed: {low: 1, high: 2, log: 1}}}", "must have true or false"),
        ("{draws: 300, params: {seed: [1]}}", "at most 256"),
        ("{params: {seed: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], model.params.hidden: "
         "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]}}", "must give at most 256 variants, and these are "
         "272"),
        ("{metric: acuracy}", "must be one of accuracy"),
        ("{runner: spark}", "must be one of processes, dask, or module:Class"),
        ("{metric: 'nowhere:at_all'}", "there is no module 'nowhere'"),
        ("{variants: [{model.params.hiden: 3}]}", "the variant with hiden 3: model.params: 'configs.digits:build' has "
         "no parameter 'hiden'; did you mean 'hidden'?"),
        ("{variants: [{seed: 1}, {training.batch_size: 0}]}", "the variant with batch_size 0: cfg.yaml: "
         "'training.batch_size' must be at least 1"),
        ("{variants: [{model.params.hidden: 2026-01-01}]}", "must be JSON values, got a date"),
        ("{}", "a sweep needs variants: set sweep.params"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_run(cfg: Path, fields: str, words: str) -> None:
    """A wrong key, value, range, number or variant is refused before anything runs, in one line that names it."""
    with pytest.raises(ConfigError) as caught:
        load_variants(cfg, [f"sweep={fields}"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_sweep() -> None:
    """As many variants as are allowed are given."""
    assert len(variants(sweep(params={"seed": list(range(MOST_VARIANTS))}))) == MOST_VARIANTS


def test_words() -> None:
    """A variant is named by the last parts of its keys, unless two of them are the same."""
    assert in_words({"model.params.rate": math.pi, "model.params.on": True, "seed": None}) == (
        "rate 3.14159, on true, seed null"
    )
    assert in_words({"model.params.epochs": 1, "training.epochs": 2}) == "model.params.epochs 1, training.epochs 2"
    assert in_words({}) == "nothing set"
    assert in_words({"model.params.sizes": [10] * 99}) == f"sizes [{'10, ' * 14}10…"


def test_secrets_of_a_sweep_are_hidden(cfg: Path) -> None:
    """A value whose key is that of a secret is not shown, and is hidden wherever this process writes it."""
    from configs.loading import shown
    from configs.redaction import redact

    config = load_config(cfg, ["sweep.params={model.params.api_key: [abcdefgh-7]}"])
    assert "abcdefgh-7" not in str(shown(config))
    assert redact("key abcdefgh-7") == "key ***"


ODD = [None, 1, 1.0, True, "1", "null", "", "a", math.nan, math.inf, -math.inf, [], [1], [1.0], [math.nan], {"a": None}]


def test_values_that_are_alike_are_different_variants(cfg: Path) -> None:
    """The numbers 1 and 1.0, true, texts, null and what is not finite are variants of their own, and look different."""
    _, found = load_variants(cfg, [f"sweep.params={as_yaml(HIDDEN, ODD)}"])
    assert [repr(one.values[HIDDEN]) for one in found] == [repr(value) for value in ODD]
    assert len({one.words for one in found}) == len({variant_key(one.config) for one in found}) == len(ODD)
    assert [one.words for one in found][1:6] == ["hidden 1", "hidden 1.0", "hidden true", 'hidden "1"', 'hidden "null"']


def as_yaml(key: str, values: list[Any]) -> str:
    [item] = as_overrides({key: values})
    return f"{{{key}: {item.partition('=')[2]}}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{1: a, b: 2}", "must have text as keys, got 1"), ("2026-01-01", "must be JSON values, got a date; quote text")],
)
def test_values_that_cannot_vary(cfg: Path, text: str, words: str) -> None:
    """A value that JSON does not have is refused in one line."""
    cfg.write_text(cfg.read_text().replace("[32, 64]", f"[{text}]"))
    with pytest.raises(ConfigError, match=words):
        load_variants(cfg)
