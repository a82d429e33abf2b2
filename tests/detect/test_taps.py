"""Which taps of a kernel meet the picture, against going through all places."""

from itertools import product

from neuromech.detect.operators.convolution import taps_met


def test_the_taps_that_meet_entries_and_zeros() -> None:
    for n, k, stride, padding, dilation in product(range(1, 6), range(1, 5), (1, 2, 3), range(4), (1, 2)):
        out = (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        places = {t: [o * stride + t * dilation - padding for o in range(out)] for t in range(k)}
        met = [t for t in range(k) if any(0 <= at < n for at in places[t])]
        if met:
            seen, zeros = taps_met(n, k, out, stride, padding, dilation)
            assert list(seen) == list(range(met[0], met[-1] + 1))
            assert zeros == any(not 0 <= at < n for t in seen for at in places[t])
