"""The command `ecgtwin-fast`: generate, demo, import-published, info."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import NOTICE
from .commands import dataset, edit, evaluate, explore, prepare, reproduce, train
from .commands.arguments import condition_options, sampling, sampling_options
from .errors import ECGTwinError

if TYPE_CHECKING:
    from .data.record import Record
    from .generator import Condition, Generation

# torch and what needs it load inside the commands, so that --help answers at once.

DEMO_ECG_ID = 79
"""Of PTB-XL's test fold, on which the bundled model was not trained."""
DEMO_PATIENT = Path(__file__).parent / "data" / "patient" / "patient.hea"
DEMO_REPORT = "sinus tachycardia"
DEMO_HEART_RATE = 110.0

_EXAMPLES = f"""\
examples:
  A picture and eight twins in out/, from a real or a simulated patient:
    ecgtwin-fast demo --out out

  The patient of a WFDB record, as if in rapid atrial fibrillation:
    ecgtwin-fast generate --reference 00001_hr.hea \\
        --report "atrial fibrillation|rapid ventricular response" --heart-rate 120 --out out

{NOTICE}
"""
_GENERATE_EXAMPLES = f"""\
examples:
  Age and sex come from the record where it states them, else give them:
    ecgtwin-fast generate --reference ecg.csv --report "sinus bradycardia" --heart-rate 48 \\
        --age 71 --sex F --count 8 --seed 7 --out out

  Many records, a slower and finer sampler, another model:
    ecgtwin-fast generate --reference patient.hea --report "left bundle branch block" \\
        --count 500 --sampler ddpm --steps 1000 --model path/to/model --out out

  No patient's ECG: DiffuSETS generates ECGs of nobody in particular from the condition alone
    ecgtwin-fast generate --model diffusets --report "left bundle branch block" \\
        --heart-rate 72 --age 66 --sex M --out out

The reference has 12 leads, or V1..V6 and two limb leads, and at least 10 s. It may be a WFDB record
(.hea, .dat or their stem), a CSV file with a header of lead names (mV) and a column time (s), or a .npz
file with signal, sampling_rate and leads.

out/ then holds twin_000.hea and .dat and so on (WFDB), twins.png (the reference above its first twins, on
ECG paper) and twins.json (all that was done), with DiffuSETS too.
{NOTICE}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: the command's own or 0, 2 for input that cannot be used, 130 when
    interrupted."""
    given = _parser().parse_args(arguments)
    try:
        return given.run(given) or 0
    except (ECGTwinError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ecgtwin-fast",
        description="Generate a patient's 12-lead ECG under another condition (ECGTwin, arXiv 2508.02720).",
        epilog=_EXAMPLES,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="twins of a reference ECG under a condition that you name",
        description="Generate twins of a reference ECG: the same patient under another condition (ECGTwin).\n"
        "With --model diffusets, ECGs under a condition with no reference (DiffuSETS, arXiv 2501.05932).",
        epilog=_GENERATE_EXAMPLES,
    )
    generate.set_defaults(run=_generate)
    generate.add_argument("--reference", type=Path, metavar="PATH", help="the patient's own ECG; none with DiffuSETS")
    generate.add_argument("--report", required=True, metavar="TEXT", help="what the twins show; '|' parts statements")
    condition_options(generate)
    sampling_options(generate, count=8)

    demo = commands.add_parser(
        "demo",
        help="the shortest way to a picture",
        description=f"Twins of one patient in {DEMO_REPORT} at {DEMO_HEART_RATE:g} bpm. The patient is a real PTB-XL "
        "record where ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) is a folder of PTB-XL, else a simulated one.",
        epilog=NOTICE,
    )
    demo.set_defaults(run=_demo)
    sampling_options(demo, count=8)

    published = commands.add_parser(
        "import-published",
        help="turn the published .pth files into a model directory",
        description="Turn the published ECGTwin checkpoints into a model directory for --model. Parameter names stay; "
        "no code in the files is run.",
        epilog="example:\n  ecgtwin-fast import-published --vae vae_model.pth --extractor ibe_model.pth \\\n"
        "      --denoiser ECGTwin_DiT.pth --config DiT_ECGTwin.yaml ecgtwin-published\n",
    )
    published.set_defaults(run=_import_published)
    published.add_argument("--vae", type=Path, required=True, metavar="F", help="autoencoder: encoder and decoder")
    published.add_argument("--extractor", type=Path, required=True, metavar="F", help="Individual Base Extractor")
    published.add_argument("--denoiser", type=Path, required=True, metavar="F", help="diffusion transformer")
    published.add_argument(
        "--config", type=Path, action="append", default=[], metavar="YAML", help="published configuration, for sizes"
    )
    published.add_argument("out", type=Path, metavar="OUT", help="model directory to write")

    for command in (dataset, edit, explore, prepare, train, reproduce, evaluate):
        command.add_to(commands)

    info = commands.add_parser("info", help="versions, CPU features and the status of every operator")
    info.set_defaults(run=_info)
    return parser


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of epilogs; subcommands inherit it."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def _generate(given: argparse.Namespace) -> None:
    from .data.record import read_record
    from .pretrained import find_model, read_model_type

    without_reference = read_model_type(find_model(given.model)) == "diffusets"
    if without_reference and given.reference is not None:
        raise ECGTwinError(
            f"{given.model} is a DiffuSETS model, which takes no --reference: leave it out, or take an ECGTwin model"
        )
    if without_reference:
        _make_ecgs(given)
    elif given.reference is None:
        raise ECGTwinError(
            f"--reference is missing: {given.model} is an ECGTwin model, which makes twins of a patient's own ECG; "
            "--model diffusets needs none"
        )
    else:
        reference = read_record(given.reference)
        _make_twins(given, reference, given.report, given.heart_rate, given.age, given.sex)


def _demo(given: argparse.Namespace) -> None:
    from .data.ptbxl import PTBXL, ptbxl_root
    from .data.record import read_record

    root = ptbxl_root()
    if root is None:
        print("patient    simulated, shipped with the package (set ECGTWIN_PTBXL to a folder of PTB-XL for a real one)")
        reference = read_record(DEMO_PATIENT, source="simulated patient of ecgtwin_fast")
    else:
        print(f"patient    real, from {root}")
        reference = PTBXL(root).record(DEMO_ECG_ID)
    _make_twins(given, reference, DEMO_REPORT, DEMO_HEART_RATE, None, None)


def _make_twins(
    given: argparse.Namespace,
    reference: Record,
    report: str,
    heart_rate: float | None,
    age: float | None,
    sex: str | None,
) -> None:
    from .data.preprocess import prepare
    from .generate import Condition, ECGTwin
    from .staging import check_folder

    # Everything that can be wrong with the input is found before the model works.
    check_folder(given.out)
    prepared = prepare(reference)
    condition = Condition.from_reference(prepared, report, heart_rate, age, sex)
    model = ECGTwin.from_pretrained(given.model, given.device)
    print(f"reference  {_described(prepared)}; {reference.sampling_rate:g} Hz")
    base_vector = model.base_vector(prepared)
    _sample_and_write(given, prepared, condition, lambda options: model.sample(base_vector, condition, **options))


def _make_ecgs(given: argparse.Namespace) -> None:
    from .diffusets import DiffuSETS
    from .generator import Condition
    from .staging import check_folder

    check_folder(given.out)
    condition = Condition(given.report, given.heart_rate, given.age, given.sex)
    model = DiffuSETS.from_pretrained(given.model, given.device)
    _sample_and_write(given, None, condition, lambda options: model.sample(condition, **options))


def _sample_and_write(
    given: argparse.Namespace,
    reference: Record | None,
    condition: Condition,
    sample: Callable[[dict], Generation],
) -> None:
    from .twin_folder import PICTURE, SUMMARY, write_twins

    print(f"condition  {condition.report}, {condition.heart_rate:.0f} bpm, {condition.age:g} years, {condition.sex}")
    with sampling(given) as options:
        generation = sample(options)
    summary = write_twins(given.out, reference, generation)
    speed = f"{given.count} records in {generation.seconds:.2f} s, {summary['records_per_second']:.2f} records/s"
    print(f"model      {generation.model}, {given.sampler} with {given.steps} steps, seed {given.seed}")
    print(f"backend    {generation.backend} on {generation.device}, {given.dtype}: {speed}")
    first, last = (summary["twins"][end]["files"][0] for end in (0, -1))
    measured = summary["median_measured_heart_rate"]
    rate = "not measurable" if measured is None else f"{measured:.0f} bpm, median over the records"
    print(f"heart rate {rate} (XQRS)")
    print(f"wrote      {given.out / PICTURE}, {given.out / SUMMARY}, {given.out / first} .. {last}")
    print(NOTICE)


def _described(record: Record) -> str:
    known = [record.source, record.report and record.report.replace("|", ", ")]
    known += [f"{record.heart_rate:.0f} bpm", f"{record.age:g} years" if record.age is not None else None, record.sex]
    return ", ".join(text for text in known if text)


def _import_published(given: argparse.Namespace) -> None:
    from .published import import_published

    config = import_published(given.vae, given.extractor, given.denoiser, given.out, given.config)
    print(f"wrote      {given.out}: text encoder {config.text_encoder}, {config.text_width} wide")


def _info(given: argparse.Namespace) -> None:
    from .info import report

    print(report())
