"""Tune a model for a few candidates, use what was found, and force an algorithm and tile sizes by hand.

python examples/tuning.py
"""

from pathlib import Path

import numpy as np
from tile_sizes import two_convolutions

import loopnest

BY_HAND = Path(__file__).with_name("tuned.toml")


def main() -> None:
    x = np.random.default_rng(1).standard_normal((1, 32, 28, 28)).astype(np.float32)
    model = two_convolutions()
    default = loopnest.compile(model, threads=1)

    found = loopnest.tune(model, "tuned.toml", trials=2, threads=1)
    print(f"{found.trials} candidates, expected gain {found.gain:.3f}")
    tuned = loopnest.compile(model, config="tuned.toml", threads=1)
    by_hand = loopnest.compile(model, config=BY_HAND, threads=1)
    for title, f in (("tuned", tuned), ("by hand", by_hand)):
        difference = float(np.abs(default(x) - f(x)).max())
        assert difference < 1e-4, difference
        print(f"{title}: differs by less than 1e-4")

    tuned.save("tuned.lnest")
    assert np.array_equal(loopnest.load("tuned.lnest")(x), tuned(x))
    try:
        loopnest.compile(model, config={"node": {"second": {"tile": {"m": 99}}}})
    except loopnest.ConfigError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
