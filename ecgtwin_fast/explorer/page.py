"""The page: what stands where, and what each control does (Gradio)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gradio as gr

from .. import NOTICE
from ..cli import DEMO_HEART_RATE, DEMO_REPORT
from ..data.condition import AGE_RANGE, HEART_RATE_RANGE
from ..data.simulated_vocabulary import FINDINGS, NORMAL, RHYTHMS
from ..errors import ConditionError, ECGTwinError
from ..generate import Condition
from .downloads import FORMATS as DOWNLOADS
from .downloads import write_download
from .model import REFERENCE, Explorer, Findings, Patient, Wish, ptbxl_name
from .paper import FORMATS, rhythm_table
from .uploads import LARGEST_MEGABYTES, SUFFIXES, read_upload
from .view import LAYOUTS, View, problem, sheets, status

SIMULATED, PTBXL_RECORD, UPLOAD = "simulated", "PTB-XL", "upload"
ADD, SWAP = "add a statement", "swap the report"
FORGET_SECONDS = 3600
"""After which the page's findings and files are dropped."""
_STATEMENTS = sorted({NORMAL, *(effect.names[0] for effect in (*RHYTHMS, *FINDINGS))})
_ROW_CLICK = """element.addEventListener('click', event => {
  const row = event.target.closest('tr[data-label]');
  if (row) trigger('click', {label: row.dataset.label});
});"""
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}
_IN_ORDER = {"concurrency_id": "model", "concurrency_limit": 1}
"""One model serves all visitors, and a visitor's clicks take effect in their order."""
_START_DOWNLOAD = "() => setTimeout(() => document.getElementById('file').click(), 400)"
"""Once Gradio has given the hidden button its address."""


def build(explorer: Explorer) -> gr.Blocks:
    """The page over one model. What a visitor has stays in that visitor's state, and goes with it."""
    with gr.Blocks(
        title="ECGTwin explorer", analytics_enabled=False, fill_width=True, delete_cache=(600, FORGET_SECONDS)
    ) as page:
        state = gr.State(time_to_live=FORGET_SECONDS)
        gr.HTML(f"<div class='title'><h1>ECGTwin explorer</h1><span class='notice'>{NOTICE}</span></div>")
        with gr.Row():
            with gr.Column(scale=0, min_width=340):
                asked = _controls(explorer)
            with gr.Column(scale=1):
                line = gr.HTML(elem_id="status", elem_classes="status")
                view = _view_controls()
                paper = gr.HTML(elem_id="paper")
                table = gr.HTML(elem_id="table", js_on_load=_ROW_CLICK)
                with gr.Row():
                    buttons = [gr.Button(f"Download {kind}", size="sm", elem_id=f"get-{kind}") for kind in DOWNLOADS]
                file = gr.DownloadButton(visible="hidden", elem_id="file")
        outputs = [state, line, paper, table, view["first"], view["second"]]
        desk = _Desk(explorer, state, list(view.values()), outputs)

        source = [asked[name] for name in ("kind", "ecg_id", "files")]
        asked["kind"].input(_source_fields, asked["kind"], [asked["ecg_id"], asked["files"]], **_QUIET)
        number = asked["ecg_id"]
        for event in (page.load, asked["kind"].input, number.submit, number.blur, asked["files"].upload):
            chosen = desk.on(event, desk.reference, source)
            chosen.success(_own_age_and_sex, state, [asked["age"], asked["sex"]], **_QUIET)
        texts = [asked["report"], asked["statement"]]
        asked["statement"].input(_with_statement, texts, texts, **_QUIET)
        wish = ("report", "heart_rate", "age", "sex", "count", "steps", "seed")
        for event in (asked["generate"].click, asked["report"].submit):
            desk.on(event, desk.generate, [asked[name] for name in wish])
        change = ("change", "twin", "text", "weight", "threshold")
        for event in (asked["edit"].click, asked["text"].submit):
            desk.on(event, desk.edit, [asked[name] for name in change])
        for control in view.values():
            desk.on(control.input, desk.look, [])
        desk.on_row(table.click)
        for kind, button in zip(DOWNLOADS, buttons, strict=True):
            desk.on_download(button, kind, file, line)
    return page


def _controls(explorer: Explorer) -> dict[str, gr.components.Component]:
    """The left column: every control by name."""
    named = {}
    kinds = [SIMULATED, *([PTBXL_RECORD] if explorer.ptbxl else []), UPLOAD]
    named["kind"] = gr.Radio(kinds, value=SIMULATED, label="Reference", elem_id="kind")
    ids = list(explorer.ptbxl.rows) if explorer.ptbxl else [1]
    named["ecg_id"] = gr.Number(
        ids[0], precision=0, label=f"PTB-XL ecg_id ({ids[0]} to {ids[-1]})", visible=False, elem_id="ecg-id"
    )
    named["files"] = gr.File(
        file_count="multiple", file_types=list(SUFFIXES), visible=False, elem_id="files", height=130,
        label=f".hea and .dat, .csv or .npz; at most {LARGEST_MEGABYTES} MB",
    )  # fmt: skip
    named["report"] = gr.Textbox(DEMO_REPORT, label="Report of the twins: statements parted by |", elem_id="report")
    named["statement"] = gr.Dropdown(_STATEMENTS, value=None, label="Statements that the bundled model met")
    named["heart_rate"] = _slider("Heart rate, bpm", *HEART_RATE_RANGE, DEMO_HEART_RATE)
    named["age"] = _slider("Age, years", *AGE_RANGE, 60)
    named["sex"] = gr.Radio([("female", "F"), ("male", "M")], value="F", label="Sex")
    named["count"] = _slider("Twins", 1, 8, 4)
    named["steps"] = _slider("Steps", 5, 250, 25, 5)
    named["seed"] = _slider("Seed", 0, 999, 0)
    named["generate"] = gr.Button("Generate", variant="primary", elem_id="generate")
    with gr.Accordion("Edit a twin", open=True):
        named["change"] = gr.Radio([ADD, SWAP], value=ADD, show_label=False, container=False)
        named["twin"] = _slider("Twin", 1, 8, 1)
        named["text"] = gr.Textbox(
            "left bundle branch block", label="Statement to add, or report to swap in", elem_id="edit-text"
        )
        named["weight"] = _slider("Weight of the statement", 0, 4, 1, 0.1)
        named["threshold"] = _slider("Threshold, timestep", 0, 1000, 200, 10)
        named["edit"] = gr.Button("Edit", elem_id="edit")
    return named


def _slider(label: str, low: float, high: float, value: float, step: float = 1) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, buttons=[], elem_classes="slim")


def _view_controls() -> dict[str, gr.components.Component]:
    """The fields of `View`, by name."""
    with gr.Row(elem_classes="views"):
        return {
            "first": gr.Dropdown([REFERENCE], value=REFERENCE, label="ECG", min_width=140),
            "second": gr.Dropdown([""], value="", label="compared with", min_width=215),
            "layout": gr.Radio(list(LAYOUTS), value=LAYOUTS[0], label="layout", elem_id="layout", min_width=320),
            "rows": gr.Radio(list(FORMATS), value=next(iter(FORMATS)), label="leads", elem_id="rows", min_width=215),
            "attention": gr.Checkbox(label="attention", elem_id="attention", min_width=100),
        }


def _source_fields(kind: str):
    """Only the field of the chosen kind of reference shows."""
    return gr.update(visible=kind == PTBXL_RECORD), gr.update(visible=kind == UPLOAD)


def _own_age_and_sex(findings: Findings | None):
    record = findings and findings.patient.record
    return [gr.skip() if value is None else value for value in (record and record.age, record and record.sex)]


def _with_statement(report: str, statement: str):
    return " | ".join(part for part in (report.strip(), statement) if part), None


class _Desk:
    """What the controls do. An action takes the visitor's findings, the view and its inputs, and gives findings and
    view anew, or None to leave them; an error of ours changes the status line alone."""

    def __init__(self, explorer: Explorer, state: gr.State, view: list, outputs: list):
        self.explorer, self.state, self.view, self.outputs = explorer, state, view, outputs

    def on(self, event: Callable, action: Callable, inputs: list):
        """Let an event run an action; returns Gradio's dependency."""
        return event(self._answering(action), [self.state, *self.view, *inputs], self.outputs, **_QUIET, **_IN_ORDER)

    def on_row(self, event: Callable) -> None:
        """Let a click on a row of the table choose the record that the first one is compared with."""

        def choose(findings: Findings, view: View, data: gr.EventData):
            return findings, replace(view, second=data.label)

        def run(data: gr.EventData, *values):
            return self._answering(choose)(*values, data)

        event(run, [self.state, *self.view], self.outputs, **_QUIET, **_IN_ORDER)

    def on_download(self, button: gr.Button, kind: str, file: gr.DownloadButton, line: gr.HTML) -> None:
        """Let a button write the files, and then the browser fetch them."""

        def write(findings: Findings | None):
            if findings is None or not findings.twins:
                return gr.skip(), problem(ConditionError("nothing to download yet: generate twins first"))
            return str(write_download(findings, kind, Path(tempfile.mkdtemp()))), gr.skip()

        button.click(write, self.state, [file, line], **_QUIET).then(None, js=_START_DOWNLOAD)

    def reference(self, findings: Findings | None, view: View, kind: str, ecg_id: int, files: list[str] | None):
        known = findings and findings.patient.record.source == ptbxl_name(ecg_id)
        if (kind == UPLOAD and not files) or (kind == PTBXL_RECORD and known):
            return None
        if kind == UPLOAD:
            patient = self.explorer.patient(read_upload(files))
        else:
            patient = self.explorer.ptbxl_patient(ecg_id) if kind == PTBXL_RECORD else self.explorer.simulated_patient()
        return Findings(patient), replace(view, first=REFERENCE, second="")

    def generate(self, findings: Findings, view: View, report, heart_rate, age, sex, count, steps, seed):
        wish = Wish(Condition(report, heart_rate, age, sex), int(count), int(steps), int(seed))
        found = self.explorer.generate(_patient(findings), wish)
        return found, replace(view, first=REFERENCE, second=found.twins[0].label)

    def edit(self, findings: Findings, view: View, change, twin, text, weight, threshold):
        _patient(findings)
        kind = "add" if change == ADD else "swap"
        found = self.explorer.edit(findings, int(twin), kind, text, weight, int(threshold))
        return found, replace(view, first=found.twins[int(twin) - 1].label, second=found.edits[-1].label)

    def look(self, findings: Findings, view: View):
        return findings, view

    def _answering(self, action: Callable) -> Callable:
        count = len(self.view)

        def answer(findings, *values):
            try:
                changed = action(findings, View(*values[:count]), *values[count:])
                return self._shown(*changed) if changed else [gr.skip()] * len(self.outputs)
            except (ECGTwinError, OSError) as error:
                return [gr.skip(), problem(error), *[gr.skip()] * (len(self.outputs) - 2)]

        return answer

    def _shown(self, findings: Findings, view: View) -> list:
        _patient(findings)
        labels = list(findings.traces)
        return [
            findings,
            status(findings),
            sheets(findings, view, lambda trace: self.explorer.attention(trace, findings.patient)),
            rhythm_table(findings, (view.first, view.second)),
            gr.update(choices=labels, value=view.first),
            gr.update(choices=["", *labels], value=view.second),
        ]


def _patient(findings: Findings | None) -> Patient:
    """The patient of a visitor who was not away for too long."""
    if findings is None:
        raise ConditionError(f"forgotten after {FORGET_SECONDS // 60} minutes: choose the reference again")
    return findings.patient
