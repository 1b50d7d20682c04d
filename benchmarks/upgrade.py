"""What the proof of the way back costs, and how often an equal server raises an alarm about what is live.

    python -m benchmarks.upgrade [--image IMAGE] [--runs 20] [--rounds 5]

Two versions of the digits example are judged once, so that their answers are recorded. Then the second one is judged
beside the first one with and without the way back, in turn, and `rehearse --live` judges both on an equal server as
often as `--runs` says. With an image, a container of it serves; else the embedded server.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.digits import exported
from benchmarks.ratios import add_json_option, write_ratios
from configs.loading import load_config
from configs.schema import Config
from tasks.gates.judge import judge
from tasks.records import Backend, Candidate, Recorded, Splits, TrackedRun, TrainedModel, ValidationReport, WayBack
from tasks.savedmodel.safety import read_graph
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tasks.store.rehearsals import Rehearsed
from tasks.upgrade import LIVE, WAY_BACK, InProduction, judge_on


def recorded(config: Config, candidate: Candidate, backend: Backend, directory: Path, role: str) -> InProduction:
    """Judge a version, and return it as one that is in production with its recorded answers."""
    served = rehearse(Rehearsal(config.serving, candidate, backend, directory, config.gates))
    report = ValidationReport(
        candidate, read_graph(candidate.version_dir), served, judge(config.gates, candidate, served)
    )
    splits = Splits(*[candidate.targets] * 3, {"train": 0, "validation": 0, "test": served.rows}, "", "a:b", ())
    known = Rehearsed(splits, TrainedModel(candidate.targets, {}, 0, 1), report, TrackedRun("", "", "digits", 0, ""))
    answers = Recorded(candidate.signature, candidate.requests, served.answers)
    return InProduction(candidate.version, role, WayBack(candidate.version, candidate.version_dir, answers), known)


def seconds_of(rehearsal: Rehearsal) -> float:
    """Return the seconds from the start of the server to the verdicts; every gate must pass."""
    begun = time.perf_counter()
    served = rehearse(rehearsal)
    failed = [gate.summary for gate in judge(rehearsal.gates, rehearsal.candidate, served) if not gate.passed]
    if failed:
        raise SystemExit(f"a gate failed: {failed}")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    backend = Backend("docker", options.image) if options.image else Backend("embedded")
    scratch = Path(tempfile.mkdtemp(prefix="benchmark-"))
    config = load_config(Path("configs/digits.yaml"), [f"work_dir={scratch}/work", f"serving.backend={backend.kind}"])
    try:
        champion, candidate = exported(scratch, {1: ["training.epochs=10"], 2: ["training.epochs=15"]})
        shutil.copytree(champion.version_dir, scratch / "models" / "digits" / "1")
        live = find_champion(scratch / "models" / "digits")
        back = recorded(config, champion, backend, scratch / "1", WAY_BACK)
        ahead = recorded(config, candidate, backend, scratch / "2", LIVE)
        without = Rehearsal(config.serving, candidate, backend, scratch / "without", config.gates, live)
        proven = Rehearsal(config.serving, candidate, backend, scratch / "with", config.gates, live, back.known)
        pairs = [(seconds_of(proven), seconds_of(without)) for _ in range(options.rounds + 1)][1:]  # one to warm up
        alarms, begun = [], time.perf_counter()
        for _ in range(options.runs):
            verdicts = [judge_on(config, one, backend, scratch / "again") for one in (ahead, back)]
            alarms += [f"version {one.version}: {one.why}" for one in verdicts if not one.passed]
        seconds = (time.perf_counter() - begun) / max(1, options.runs)
    finally:
        shutil.rmtree(scratch)
    added = sorted(mine - other for mine, other in pairs)[len(pairs) // 2]
    print(f"{backend.kind}: the proof of the way back adds {added:.2f} s, median of {len(pairs)} pairs")
    print(f"{backend.kind}: {len(alarms)} alarms in {options.runs} runs on an equal server, {seconds:.1f} s each")
    print("\n".join(alarms), end="")
    write_ratios(
        options.json, {"time to judge with the way back beside without": [mine / other for mine, other in pairs]}
    )


if __name__ == "__main__":
    main()
