"""The wheel: the command's bits from Python, implicit's names and shapes, factors in pieces, errors, threads."""

import ast
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import anabranch
from anabranch import AlternatingLeastSquares, CosineRecommender, InputError, Settings

sparse = pytest.importorskip("scipy.sparse")

PACKAGE = Path(anabranch.__file__).parent
IALS = {"dim": 12, "iterations": 3, "regularisation": 0.02, "frequency_exponent": 0.7, "unobserved_weight": 0.5}


def interactions(users=400, items=90, density=0.06, seed=1):
    """Users × items with weights from 0.25 to 4, some rows empty."""
    random = np.random.default_rng(seed)
    matrix = sparse.random(users, items, density, "csr", np.float32, random, lambda n: random.integers(1, 17, n) / 4)
    matrix[random.integers(0, users, 5)] = 0
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def ids(count):
    return [f"item-{item:05}" for item in range(count)]


def same_bits(left, right):
    assert left.dtype == right.dtype and left.shape == right.shape
    return left.tobytes() == right.tobytes()


# ------------------------------------------------------------------------------------------------------------- the contract


def public(tree):
    """Names of a module or class with their parameters: {name: None or [(name, kind, has default)]}."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in ("__init__", "__len__")):
            if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
                found[node.name] = None
                continue
            a = node.args
            plain = [arg.arg for arg in [*a.posonlyargs, *a.args] if arg.arg != "self"]
            named = [arg.arg for arg in a.kwonlyargs]
            optional = {arg.arg for arg in a.args[len(a.args) - len(a.defaults):]} if a.defaults else set()
            optional |= {arg.arg for arg, default in zip(a.kwonlyargs, a.kw_defaults) if default is not None}
            found[node.name] = [(name, "plain", name in optional) for name in plain]
            found[node.name] += [(name, "named", name in optional) for name in named]
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = None
    return found


def signature_of(function):
    kinds = {inspect.Parameter.KEYWORD_ONLY: "named"}
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [(p.name, kinds.get(p.kind, "plain"), p.default is not inspect.Parameter.empty) for p in parameters]


def test_the_stubs_tell_the_truth():
    """Every name of the stubs is there with those parameters, and nothing else is exported."""
    aliases = {"F32", "F64", "I32", "I64", "Csr", "Arrow", "Path", "Hide", "Ials"}
    told = public(ast.parse((PACKAGE / "__init__.pyi").read_text()))
    names = set(told) - aliases
    assert names == set(anabranch.__all__)
    for name in names:
        found = getattr(anabranch, name)
        if isinstance(told[name], list):
            assert signature_of(found) == told[name], name
        elif isinstance(told[name], ast.ClassDef) and not issubclass(found, (Exception, int)):
            for method, parameters in public(told[name]).items():
                if isinstance(parameters, list):
                    # __init__ of a class that is written in Rust is its __new__.
                    actual = found if method == "__init__" else getattr(found, method)
                    assert method == "__len__" or signature_of(actual) == parameters, f"{name}.{method}"
                elif name not in ("EtlPlan", "PlannedFile", "Dataset", "TrainingRows", "AlternatingLeastSquares", "Registry"):
                    assert hasattr(found, method), f"{name}.{method}"
    assert (PACKAGE / "py.typed").exists()


def test_without_pyarrow_and_scipy_the_rest_works():
    code = """
import sys
sys.modules["pyarrow"] = sys.modules["scipy"] = None
import anabranch
rows = ([0, 2, 3], [0, 2, 1], [1.0, 2.0, 1.0])
model = anabranch.AlternatingLeastSquares(factors=2, iterations=1).fit(rows)
assert model.recommend(0, ([0, 2], [0, 2], [1.0, 2.0]), N=3)[0].tolist() == [1]
try:
    anabranch.RECORD_SCHEMA
except ImportError as error:
    assert "anabranch[arrow]" in str(error)
else:
    raise SystemExit("pyarrow was found")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------ implicit's API


def test_users_solve_the_dense_normal_equations():
    matrix = interactions()
    model = AlternatingLeastSquares(factors=8, regularization=0.3, alpha=2.0, iterations=4, random_state=7)
    steps = []
    assert model.fit(matrix, callback=lambda iteration, seconds: steps.append(iteration)) is model
    assert steps == [0, 1, 2, 3]
    assert model.user_factors.shape == (400, 8) and model.item_factors.shape == (90, 8)
    items = model.item_factors.astype(np.float64)
    base = items.T @ items + 0.3 * np.eye(8)
    for user in range(0, 400, 17):
        row = matrix[user]
        if row.nnz == 0:
            assert not model.user_factors[user].any()
            continue
        chosen, weights = items[row.indices], 2.0 * row.data
        dense = np.linalg.solve(base + (chosen.T * weights) @ chosen, chosen.T @ weights)
        # The condition number bounds what rounding to f32 may do; 1e-3 is far above it for these matrices.
        assert np.abs(model.user_factors[user] - dense).max() <= 1e-3 * np.abs(dense).max()
    again = AlternatingLeastSquares(factors=8, regularization=0.3, alpha=2.0, iterations=4, random_state=7).fit(matrix)
    assert same_bits(again.user_factors, model.user_factors)
    other = AlternatingLeastSquares(factors=8, regularization=0.3, alpha=2.0, iterations=4, random_state=8).fit(matrix)
    assert not same_bits(other.user_factors, model.user_factors)


def test_lists_have_implicits_shapes_and_are_exact():
    matrix = interactions()
    model = AlternatingLeastSquares(factors=8, iterations=3, alpha=10).fit(matrix)
    scores = model.user_factors @ model.item_factors.T
    for user in (0, 3, 250):
        found, given = model.recommend(user, matrix[user], N=5)
        left = scores[user].copy()
        left[matrix[user].indices] = -np.inf
        assert found.shape == given.shape == (5,) and found.dtype == np.int32 and given.dtype == np.float32
        assert found.tolist() == np.argsort(-left, kind="stable")[:5].tolist()
        np.testing.assert_allclose(given, left[found], rtol=1e-5)
    users = np.array([5, 0, 9])
    found, given = model.recommend(users, matrix[users], N=4, filter_already_liked_items=False, filter_items=[7])
    assert found.shape == (3, 4) and not (found == 7).any() and (np.diff(given, axis=1) <= 0).all()
    only, _ = model.recommend(users, matrix[users], N=10, items=[1, 2, 3], filter_already_liked_items=False)
    assert [sorted(row[row >= 0]) for row in only] == [[1, 2, 3]] * 3 and (only[:, 3:] == -1).all()
    assert np.isnan(model.recommend(users, matrix[users], N=10, items=[1])[1][:, 1:]).all()

    found, similarity = model.similar_items(11, N=6)
    unit = model.item_factors / np.maximum(np.linalg.norm(model.item_factors, axis=1, keepdims=True), 1e-12)
    assert found[0] == 11 and abs(similarity[0] - 1) < 1e-5
    np.testing.assert_allclose(similarity, np.sort(unit @ unit[11])[::-1][:6], atol=1e-5)
    assert model.similar_items([1, 2], N=3)[0].shape == (2, 3)
    assert model.similar_users(4, N=2)[0][0] == 4


def test_fold_in_equals_training_and_new_users_are_appended(tmp_path):
    matrix = interactions()
    model = AlternatingLeastSquares(factors=8, iterations=3, alpha=10).fit(matrix)
    users = [3, 17, 399]
    assert same_bits(model.recalculate_user(users, matrix[users]), model.user_factors[users])
    assert model.recalculate_user(3, matrix[3]).shape == (8,)
    model.save(tmp_path / "model.npz")
    loaded = AlternatingLeastSquares.load(tmp_path / "model.npz")
    assert same_bits(loaded.recalculate_user(users, matrix[users]), model.user_factors[users])
    loaded.partial_fit_users([401], matrix[3])
    assert loaded.user_factors.shape == (402, 8) and same_bits(loaded.user_factors[401], model.user_factors[3])
    assert loaded.recommend(401, matrix[3], N=5)[0].tolist() == model.recommend(3, matrix[3], N=5)[0].tolist()
    assert loaded.recommend(0, matrix[3], N=5, recalculate_user=True)[0].tolist() == model.recommend(3, matrix[3], N=5)[0].tolist()


def test_cosine_neighbours_equal_the_dense_twin():
    matrix = interactions(density=0.1)
    model = CosineRecommender(K=90).fit(matrix)
    dense = np.sqrt(matrix.toarray().astype(np.float64))
    norms = np.linalg.norm(dense, axis=0)
    cosine = (dense.T @ dense) / np.maximum(np.outer(norms, norms), 1e-12)
    found, scores = model.similar_items(5, N=90)
    assert found[0] == 5 and scores[0] == 1.0
    np.testing.assert_allclose(scores, cosine[5][found], rtol=1e-4)
    np.fill_diagonal(cosine, 0)
    row = matrix[8]
    expected = (row @ cosine).ravel()
    expected[row.indices] = 0
    ids_, given = model.recommend(8, row, N=10)
    np.testing.assert_allclose(given, np.sort(expected)[::-1][: len(given)], rtol=1e-4)
    assert not set(ids_) & set(row.indices)


# ------------------------------------------------------------------------------------------------------- factors in pieces


def cuts(length, random):
    places = sorted([0, length, *random.integers(0, length + 1, random.integers(0, 5))])
    return list(zip(places, places[1:]))


def by_gathering(rows, fixed, gramian, random, tmp_path):
    """Parts of the rows, each with only the factors that it names, the factors in a memory map."""
    np.save(tmp_path / "fixed.npy", fixed)
    mapped = np.load(tmp_path / "fixed.npy", mmap_mode="r")
    parts = []
    for start, end in cuts(rows.shape[0], random):
        part = rows[start:end]
        named, local = np.unique(part.indices, return_inverse=True)
        parts.append(
            anabranch.half_step(part.indptr, local, part.data, mapped[named], gramian, IALS, count=rows.shape[1])
        )
    return np.concatenate(parts)


def by_slices(rows, fixed, gramian, random, tmp_path):
    """Slices of indptr over the same indices and data, into one array."""
    out = np.empty((rows.shape[0], IALS["dim"]), dtype=np.float32)
    for start, end in cuts(rows.shape[0], random):
        part = out[start:end]
        anabranch.half_step(rows.indptr[start : end + 1], rows.indices, rows.data, fixed, gramian, IALS, out=part)
    return out


def by_blocks(rows, fixed, gramian, random, tmp_path):
    """Blocks of the other side, in order."""
    step = anabranch.HalfStep(np.diff(rows.indptr), gramian, IALS, count=rows.shape[1])
    columns = rows.tocsc()
    for start, end in cuts(rows.shape[1], random):
        block = columns[:, start:end].tocsr()
        block.sort_indices()
        step.add(block.indptr, block.indices, block.data, fixed[start:end])
    return step.finish()


def gramian_in_pieces(factors, random):
    blocks = anabranch.gramian_blocks(factors)
    groups = anabranch.gramian_groups(blocks)
    half = anabranch.gramian_sum(groups[:1])
    return anabranch.gramian_sum(groups[1:], init=half) if len(groups) > 1 else half


@pytest.mark.parametrize("seed", range(6))
def test_any_partition_gives_the_local_trainers_bits(seed, tmp_path):
    random = np.random.default_rng(seed)
    matrix = interactions(users=int(random.integers(2, 400)), items=int(random.integers(2, 90)), density=0.1, seed=seed)
    names = ids(matrix.shape[1])
    users, items, gramian = anabranch.train_ials(matrix, names, IALS)
    columns = matrix.T.tocsr()
    columns.sort_indices()

    def step(rows, fixed):
        ways = [by_gathering, by_slices, by_blocks]
        return ways[random.integers(3)](rows, fixed, gramian_in_pieces(fixed, random), random, tmp_path)

    # Starting factors of any range of ids.
    found_items = np.concatenate([anabranch.initial_factors(names[a:b], IALS) for a, b in cuts(len(names), random)])
    for _ in range(IALS["iterations"]):
        found_users = step(matrix, found_items)
        found_items = step(columns, found_users)
    found_users = step(matrix, found_items)
    assert same_bits(found_users, users) and same_bits(found_items, items)
    assert same_bits(anabranch.gramian(items), gramian)
    weights = anabranch.popularity(columns.indptr, columns.data)
    np.testing.assert_allclose(weights, np.asarray(matrix.sum(axis=0)).ravel(), rtol=1e-6)


def test_gramians_of_groups_add_up():
    factors = np.random.default_rng(3).standard_normal((70_000, 3)).astype(np.float32)
    rows = anabranch.GRAMIAN_BLOCK_ROWS * anabranch.GRAMIAN_GROUP_BLOCKS
    groups = [anabranch.gramian_groups(anabranch.gramian_blocks(part)) for part in (factors[:rows], factors[rows:])]
    whole = anabranch.gramian(factors)
    assert same_bits(anabranch.gramian_sum(np.concatenate(groups)), whole)
    assert same_bits(anabranch.gramian_sum(groups[1], init=anabranch.gramian_sum(groups[0])), whole)
    np.testing.assert_allclose(whole, factors.astype(np.float64).T @ factors.astype(np.float64), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------- threads and errors


def test_the_gil_is_released_while_training():
    matrix = interactions(users=6000, items=800, density=0.03)
    beats, done = [], threading.Event()

    def beat():
        while not done.is_set():
            beats.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=beat)
    thread.start()
    began = time.monotonic()
    AlternatingLeastSquares(factors=64, iterations=3).fit(matrix)
    ended = time.monotonic()
    done.set()
    thread.join()
    during = [beat for beat in beats if began < beat < ended]
    # A held GIL gives at most the beats before and after; a released one some hundred a second.
    assert ended - began > 0.1 and len(during) > 20 * (ended - began), (len(during), ended - began)


def test_threads_do_not_change_a_bit_and_a_fork_gets_its_own():
    matrix = interactions()
    names = ids(matrix.shape[1])
    try:
        anabranch.set_num_threads(1)
        assert anabranch.num_threads() == 1
        one = anabranch.train_ials(matrix, names, IALS)
        anabranch.set_num_threads(3)
        three = anabranch.train_ials(matrix, names, IALS)
    finally:
        anabranch.set_num_threads(0)
    assert all(same_bits(left, right) for left, right in zip(one, three))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # A worker of Spark's: forked from a process whose pool is running.
        os.write(write, anabranch.train_ials(matrix, names, IALS)[1].tobytes()[:64])
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + 60
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("a forked process hangs in its parent's threads")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as told:
        assert told.read() == one[1].tobytes()[:64]


def test_bad_arguments_name_place_and_remedy(tmp_path):
    factors, gramian = np.ones((3, 12), dtype=np.float32), np.eye(12)

    def half(indptr=(0, 1), indices=(0,), data=(1.0,), factors=factors, gramian=gramian, ials=IALS, **more):
        return anabranch.half_step(indptr, indices, data, factors, gramian, ials, **more)

    assert half().shape == (1, 12)
    model = AlternatingLeastSquares(factors=2, iterations=1)
    refused = [
        (lambda: half(indices=(3,)), "item 3"),
        (lambda: half(indices=(-1,)), "negative"),
        (lambda: half(indptr=(0, 2)), "offsets"),
        (lambda: half(indptr=(0.5, 1)), "whole numbers"),
        (lambda: half(indptr=(0, 2), indices=(1, 1), data=(1.0, 1.0)), "row 0: item 1"),
        (lambda: half(data=(float("nan"),)), "weight NaN"),
        (lambda: half(data=(-1.0,)), "weight -1"),
        (lambda: half(factors=factors[:, :5]), "5 dimensions"),
        (lambda: half(factors=factors[0]), "two dimensions"),
        (lambda: half(gramian=np.eye(5)), "need 144"),
        (lambda: half(gramian=np.full((12, 12), np.inf)), "not finite"),
        (lambda: half(ials={"dims": 12}), "dims"),
        (lambda: half(ials={**IALS, "unobserved_weight": -1}), "unobserved_weight"),
        (lambda: half(out=np.empty((1, 12))), "float32"),
        (lambda: half(out=np.empty((2, 12), dtype=np.float32)), "out"),
        (lambda: anabranch.HalfStep([2], gramian, IALS, count=3).finish(), "2 entries were announced"),
        (lambda: anabranch.gramian_groups(np.eye(3)), "[n, dim, dim]"),
        (lambda: anabranch.train_ials(interactions(), ["a"], IALS), "item"),
        (lambda: anabranch.popularity([1, 0], [1.0]), "ascend"),
        (lambda: model.recommend(0, interactions()[0]), "call fit first"),
        (lambda: model.fit([1, 2]), "three arrays"),
        (lambda: model.fit("rows"), "scipy"),
        (lambda: Settings("[model.ials]\ndim = 0"), "dim"),
        (lambda: Settings("[model.ials]\ndims = 1"), "dims"),
        (lambda: Settings("[model"), "settings"),
        (lambda: Settings({"events": {"half_life_days": "x"}}), "settings"),
        (lambda: anabranch.ItemIndex(["", "a"]), "1 to 256 bytes"),
    ]
    for call, part in refused:
        with pytest.raises(InputError) as caught:
            call()
        assert part in str(caught.value), (part, str(caught.value))
        assert isinstance(caught.value, ValueError)
    fitted = AlternatingLeastSquares(factors=2, iterations=1).fit(interactions())
    for call, part in [
        (lambda: fitted.recommend(400, interactions()[0]), "400"),
        (lambda: fitted.recommend([1, 2], interactions()[0]), "rows"),
        (lambda: fitted.recommend(0, interactions()[0], N=1001), "1000"),
        (lambda: fitted.recommend(0, interactions()[0], items=[90]), "item 90"),
    ]:
        with pytest.raises(InputError, match=part):
            call()
    with pytest.raises(anabranch.NotFoundError) as caught:
        anabranch.Model.open(tmp_path / "none.anb")
    assert isinstance(caught.value, FileNotFoundError)
    (tmp_path / "bad.anb").write_bytes(b"no snapshot" * 100)
    with pytest.raises(anabranch.CorruptError, match="bad.anb"):
        anabranch.Model.open(tmp_path / "bad.anb")
    with pytest.raises(KeyError, match="mine"):
        # A callback's own error comes through as it is.
        fitted.fit(interactions(), callback=lambda *_: {}["mine"])


def test_settings_travel_and_keep_their_bits():
    settings = Settings("[model.ials]\ndim = 32\nregularisation = 0.1\n[training]\ntest_days = 3\n[stream]\nshards = 2\n")
    assert settings.ials["dim"] == 32 and settings.ials["regularisation"] == 0.1
    tree = settings.to_dict()
    assert tree["training"]["test_days"] == 3 and set(tree) == {"events", "etl", "model", "training"}
    assert Settings(tree) == settings == pickle.loads(pickle.dumps(settings))
    assert json.loads(json.dumps(tree)) == tree


def test_metrics_by_hand():
    test = ([0, 2, 2, 3], [1, 3, 2], [1.0, 1.0, 1.0])
    report = anabranch.evaluate_lists([[1, 0], [2, 0], [0, -1]], test, 2, item_count=4)
    assert report["users"] == 2 and report["users_without_test_items"] == 1
    # User 0 finds one of two at rank 1, user 2 nothing.
    assert report["recall"] == pytest.approx(0.25) and report["mrr"] == pytest.approx(0.5)
    assert report["coverage"] == pytest.approx(2 / 4)
    with pytest.raises(InputError, match="item 9"):
        anabranch.evaluate_lists([[9]], ([0, 1], [1], [1.0]), item_count=4)
