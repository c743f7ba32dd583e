"""Sign codes: what differs least is found, whatever the numbers of vectors and dimensions."""

import numpy as np
import pytest

from lorad.retrieval import sign_codes


def vectors(count, dimension, seed=1):
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float16)


@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (7, 8), (100, 64), (70_000, 65), (300, 384)])
def test_codes_that_differ_least_are_found_and_those_that_differ_as_little(count, dimension):
    held, asked = vectors(count, dimension), vectors(1, dimension, seed=2)[0]
    allowed = np.arange(count) % 3 != 1
    differing = ((held > 0) != (asked > 0)).sum(1)
    most = max(1, count // 10)

    found = sign_codes.nearest(sign_codes.codes(held), asked, most, allowed)

    line = np.sort(differing[allowed])[most - 1]
    assert found.tolist() == np.flatnonzero(allowed & (differing <= line)).tolist()


def test_all_that_is_allowed_is_found_where_it_is_less_than_wanted():
    held = vectors(50, 384)
    allowed = np.zeros(50, np.bool_)
    allowed[[3, 41]] = True
    assert sign_codes.nearest(sign_codes.codes(held), -held[3], 10, allowed).tolist() == [3, 41]
    assert sign_codes.nearest(sign_codes.codes(held), held[3], 10, np.zeros(50, np.bool_)).tolist() == []


def test_a_code_is_a_bit_for_each_dimension():
    assert sign_codes.codes(vectors(10, 384)).shape == (6, 10)
    assert sign_codes.codes(vectors(10, 385)).shape == (7, 10)
    assert sign_codes.codes(vectors(0, 384)).shape == (6, 0)


def test_the_nearest_by_cosine_are_among_the_nearest_by_signs():
    # Given vectors around some centres, as texts about some subjects have
    chance = np.random.default_rng(3)
    centres = chance.standard_normal((40, 384))
    held = (centres[chance.integers(40, size=4000)] + 0.8 * chance.standard_normal((4000, 384))).astype(
        np.float32
    )
    held /= np.linalg.norm(held, axis=1, keepdims=True)
    codes = sign_codes.codes(held)

    shares = []
    for asked in held[:50] + 0.02 * chance.standard_normal((50, 384)):
        exact = set(np.argsort(-(held @ asked))[:10].tolist())
        shares.append(
            len(exact & set(sign_codes.nearest(codes, asked, 200, np.ones(4000, np.bool_)).tolist())) / 10
        )

    assert np.mean(shares) > 0.97
