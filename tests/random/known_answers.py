#!/usr/bin/env python3
"""docs/random.md once more, in numpy: prints the known answers that the C++ tests hold.

Needs numpy and xxhash:  python3 tests/random/known_answers.py
"""

import pathlib
import re

import numpy as np
import xxhash

TABLE = pathlib.Path(__file__).parents[2] / "upmoe/random/icdf_c6.cpp"
NUMBER = r"-?0x[0-9a-f.]+p[+-]\d+(?=f)|0\.0(?=f)"
C = np.array([float.fromhex(x) for x in re.findall(NUMBER, TABLE.read_text())]).reshape(7, 32)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def at(key, part):
    seed, stream = key
    data = part.encode() if isinstance(part, str) else part.to_bytes(8, "little")
    return seed, xxhash.xxh3_64_intdigest(data, seed=stream)


def philox(c, k0, k1):
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [p1 >> HALF ^ c[1] ^ np.uint64(k0), p1 & LOW, p0 >> HALF ^ c[3] ^ np.uint64(k1), p0 & LOW]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def words(key, first, count):
    seed, stream = key
    i = np.arange(count, dtype=np.uint64) + np.uint64(first)
    j = i % np.uint64(64)
    n = np.uint64(16) * (i // np.uint64(64)) + j % np.uint64(16)
    c2, c3 = np.full_like(n, stream % 2**32), np.full_like(n, stream >> 32)
    four = np.stack(philox([n & LOW, n >> HALF, c2, c3], seed % 2**32, seed >> 32))
    return four[j // np.uint64(16), np.arange(count)]


def fma(a, b, c):
    """Of float32 held in float64: the product is exact, the sum is rounded to odd, then once to float32."""
    p = a * b
    s = p + c
    back = s - p
    error = (p - (s - back)) + (c - back)
    bits = s.view(np.int64)
    bits = bits + np.where((error != 0) & (bits & 1 == 0), np.where((error > 0) == (s > 0), 1, -1), 0)
    return bits.view(np.float64).astype(np.float32).astype(np.float64)


def icdf(r):
    v = r | np.uint64(1)
    centre = v >= np.uint64(2**31)
    x = np.where(centre, np.uint64(2**32) - v, v).astype(np.float32)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    column = np.where(centre, 30, (126 + exponent) % 32)
    f = np.where(centre, x * 2.0**-31, 2 * mantissa)
    z = C[6][column]
    for power in range(5, -1, -1):
        z = fma(z, f, C[power][column])
    return np.where(r & np.uint64(1), -z, z)


def normals(key, first, count, mean=None, sigma=None):
    z = icdf(words(key, first, count))
    if mean is not None:
        z = fma(z, np.float64(np.float32(sigma)), np.float64(np.float32(mean)))
    return z.astype(np.float32)


def uniforms(key, first, count):
    return ((words(key, first, count) >> np.uint64(8)) * 2.0**-24).astype(np.float32)


def below(key, i, n):
    low, high = (int(x) for x in words(key, 2 * i, 2))
    return (low + 2**32 * high) * n >> 64


def permuted(key, i, n):
    seed, stream = key
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    while True:
        left, right = i >> half, i % 2**half
        for r in range(8):
            counter = [np.uint64(c) for c in (right, r, stream % 2**32, stream >> 32)]
            left, right = right, left ^ int(philox(counter, seed % 2**32, seed >> 32)[0]) % 2**half
        i = left << half | right
        if i < n:
            return i


def shuffle(key, k, n):
    deck = list(range(n))
    for i in range(k):
        j = i + below(key, i, n - i)
        deck[i], deck[j] = deck[j], deck[i]
    return deck[:k]


def bf16(x):
    """Rounded to BF16, to the nearest, ties to even; as float64. No NaN here."""
    bits = x.view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def in_order(parts):
    total = np.zeros_like(parts[0])
    for part in parts:
        total = total + part
    return total


def sum_in_lanes(x):
    """Of each row of x, in eight lanes."""
    rows, cols = x.shape
    lanes = np.zeros((rows, -(-cols // 8) * 8))
    lanes[:, :cols] = x  # adding 0 changes nothing
    a = in_order([lanes[:, i:i + 8] for i in range(0, lanes.shape[1], 8)]).T
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def moments(pieces, add):
    """Mean and m2 by pieces of numbers, add(piece) being their sum; then all pieces combined in order."""
    count, mean, m2 = 0, 0.0, 0.0
    for size, piece in pieces:
        piece_mean = add(piece) / size
        distance = piece - (piece_mean[:, None] if add is sum_in_lanes else piece_mean)
        piece_m2 = add(distance * distance)
        if count == 0:
            count, mean, m2 = size, piece_mean, piece_m2
            continue
        delta, n = piece_mean - mean, float(count + size)
        mean, m2 = mean + delta * (size / n), m2 + piece_m2 + delta * delta * (float(count) * size / n)
        count += size
    record = np.zeros(len(mean), dtype=[("count", np.int64), ("mean", np.float64), ("m2", np.float64)])
    record["count"], record["mean"], record["m2"] = count, mean, m2
    return record


def row_moments(x):
    return moments([(p.shape[1], p) for p in (x[:, i:i + 4096] for i in range(0, x.shape[1], 4096))], sum_in_lanes)


def column_moments(x):
    return moments([(len(p), p) for p in (x[i:i + 64] for i in range(0, len(x), 64))], in_order)


def show(what, values):
    print(f"{what}: {', '.join(str(v) for v in values)}")


def hexes(values):
    return [f"0x{int(v):08x}" for v in values]


def digest(array):
    return hex(xxhash.xxh3_64_intdigest(array.tobytes()))


def main():
    root = (42, 0)
    key = at(at(at(root, "layer"), 7), "value")
    show("streams", [hex(s) for _, s in (at(root, "layer"), at(at(root, "layer"), 7), key, at(root, ""))])
    show("stream of at(2^63 + 1)", [hex(at(root, 2**63 + 1)[1])])
    show("words 0 to 3", hexes(words(key, 0, 4)))
    show("words 2^38 - 2 to 2^38 + 1", hexes(words(key, 2**38 - 2, 4)))
    show("digest of 2^20 words", [digest(words(key, 0, 2**20).astype(np.uint32))])
    show("normals 0 to 3, bits", hexes(normals(key, 0, 4).view(np.uint32)))
    show("digest of 2^20 normals", [digest(normals(key, 0, 2**20))])
    show("digest of 2^20 normals from 2^40 + 7, mean -1.3e-4, sigma 0.0217",
         [digest(normals(key, 2**40 + 7, 2**20, -1.3e-4, 0.0217))])
    for i in (62912539, 84171874, 836095881, 4343840864, 5665967873, 9226245469):
        word = words(at(root, "edge"), i, 1)
        show(f"edge {i}: word, normal", hexes([word[0], icdf(word).astype(np.float32).view(np.uint32)[0]]))
    show("uniforms 0 to 3, times 2^24", [int(u * 2**24) for u in uniforms(key, 0, 4)])
    show("below 1000, draws 0 to 7", [below(key, i, 1000) for i in range(8)])
    show("below 2^64 - 1, draw 5", [hex(below(key, 5, 2**64 - 1))])
    show("permuted 0 to 9 of 10", [permuted(key, i, 10) for i in range(10)])
    show("permuted 5 of 1000000007, of 2^64 - 1", [permuted(key, 5, 1000000007), permuted(key, 5, 2**64 - 1)])
    show("permutation of 10", shuffle(key, 10, 10))
    show("choose 6 of 100", sorted(shuffle(key, 6, 100)))
    show("digest of choose 14336 of 28672", [digest(np.array(sorted(shuffle(key, 14336, 28672)), dtype=np.int32))])
    matrix = bf16(normals(at((11, 0), "matrix"), 0, 257 * 4444, 0.01, 0.02)).reshape(257, 4444)
    show("digests of row and column moments", [digest(row_moments(matrix)), digest(column_moments(matrix))])


if __name__ == "__main__":
    main()
