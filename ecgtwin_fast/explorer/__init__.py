"""The local page of `ecgtwin-fast explore`: references, twins, edits, attention, on ECG paper."""
