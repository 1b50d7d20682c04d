"""What long texts cost, in memory and on the disk, over the bytes that they have themselves.

    python -m benchmarks.text_memory [--texts 10000]

Each case is a process of its own, and its peak is over what it holds once everything is imported:

- the loader alone, whose list is what all else is beside;
- the loader, the checks, the splits and their files, as `prepare_data` does it, and what the files hold;
- the training rows read back from their file, as the training does;
- the same texts in NumPy's text of fixed width, which takes the longest one's room for each.

The lengths are those of film reviews: 1,300 characters on average, the longest 13,700. `one long` are short texts and
one of 1 MB among them; at fixed width they would take 40 GB, which is not tried.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import add_json_option, write_ratios
from configs.sections.data import Data
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_rows

LONGEST = 13_700
WORDS = np.array(["the", "film", "was", "not", "what", "I", "had", "hoped", "for", "größe"])


def reviews(texts: int) -> tuple[list[str], Any]:
    """Return texts as long as film reviews, each another one."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(7.0, 0.6, texts), 40, LONGEST).astype(int)
    lengths[0] = LONGEST
    words = " ".join(draw.choice(WORDS, 20_000))
    starts = draw.integers(0, len(words) - LONGEST, texts)
    return [words[start : start + n] for start, n in zip(starts, lengths, strict=True)], np.zeros(texts, np.int8)


def one_long(texts: int) -> tuple[list[str], Any]:
    """Return texts of 190 characters, and one of 1 MB."""
    short = [f"{number:06} {'some words of a short text' * 7}" for number in range(texts - 1)]
    return ["x" * 1_000_000, *short], np.zeros(texts, np.int8)


LOADERS = {"reviews": reviews, "one long": one_long}


def loaded(name: str, texts: int, directory: Path) -> None:
    """Hold what the loader returns, and write down how many bytes it is."""
    rows, _ = LOADERS[name](texts)
    (directory / "bytes").write_text(str(sum(len(text.encode()) for text in rows)))


def prepared(name: str, texts: int, directory: Path) -> None:
    """Do as `prepare_data` does."""
    load = f"benchmarks.text_memory:{LOADERS[name].__name__}"
    prepare_splits(Data(load=load, params={"texts": texts}), directory)


def read_back(_name: str, _texts: int, directory: Path) -> None:
    """Read the training rows."""
    load_rows(directory / "train.npz")


def fixed_width(name: str, texts: int, _directory: Path) -> None:
    """Hold the texts as NumPy does by default."""
    np.array(LOADERS[name](texts)[0])


def peak(case: Callable[[str, int, Path], None], name: str, texts: int, directory: Path) -> int:
    """Return the bytes that a case holds at most, over those before it, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_measured, args=(theirs, case, name, texts, directory))
    child.start()
    theirs.close()
    found = int(ours.recv())
    child.join()
    return found


def _measured(pipe: Any, case: Callable[[str, int, Path], None], name: str, texts: int, directory: Path) -> None:
    case(name, 100, directory / "first")  # what is imported and made once
    before = _memory("VmRSS")
    case(name, texts, directory)
    pipe.send(_memory("VmHWM") - before)


def _memory(figure: str) -> int:
    """Return bytes of this process as Linux counts them; what getrusage says is its parent's, where that is larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{figure}:"))


def main() -> None:
    """Print one line a kind of text."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--texts", type=int, default=10_000)
    add_json_option(options)
    arguments = options.parse_args()
    texts, ratios = arguments.texts, {}
    for name in LOADERS:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            (directory / "first").mkdir()
            found = {case.__name__: peak(case, name, texts, directory) for case in (loaded, prepared, read_back)}
            if name == "reviews":
                found["fixed_width"] = peak(fixed_width, name, texts, directory)
            own = int((directory / "bytes").read_text())
            found["on disk"] = sum(file.stat().st_size for file in directory.glob("*.npz"))
            for case in ("prepared", "on disk"):
                ratios[f"bytes of {name} ({case}) beside the texts' own"] = [found[case] / own]
            shown = ", ".join(f"{case.replace('_', ' ')} {size / own:.2f}" for case, size in found.items())
            print(f"{name}: {texts:,} texts of {own / 1e6:.1f} MB; times their bytes: {shown}")
    write_ratios(arguments.json, ratios)


if __name__ == "__main__":
    main()
